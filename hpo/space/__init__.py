"""The search space, and its points."""
