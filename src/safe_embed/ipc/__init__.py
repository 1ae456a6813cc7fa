"""Processes of our own: how they are started, and how they talk. Knows no model."""
