"""The search space, and points of it."""
