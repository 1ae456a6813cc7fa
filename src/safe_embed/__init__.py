"""Embed Japanese text safely."""
