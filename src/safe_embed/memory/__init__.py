"""Measure memory, decide by policy, give it back."""
