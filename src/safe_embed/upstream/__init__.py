"""All that knows sentence-transformers and transformers."""
