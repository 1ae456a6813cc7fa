"""Where may a text be cut, and what fits a chunk? Pure; knows no model."""
