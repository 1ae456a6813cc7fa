"""Adapters for libraries that embed: one module each, imported only by those who use it.

A module imports its library at the top, and raises MissingExtraError without it.
"""
