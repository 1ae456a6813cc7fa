"""Measure memory, decide by policy when to release it, and release it."""
