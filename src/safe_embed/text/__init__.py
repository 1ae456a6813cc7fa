"""Splitters, and packing of their spans into chunks. Pure functions, independent of any model."""
