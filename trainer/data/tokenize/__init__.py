"""Texts, tags and questions as tokens."""
