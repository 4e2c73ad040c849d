"""The user's data, read and checked without torch."""
