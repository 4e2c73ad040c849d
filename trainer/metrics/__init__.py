"""Metrics by their published definitions: pure functions of predictions and references."""
