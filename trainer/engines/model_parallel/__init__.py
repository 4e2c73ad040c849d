"""Tensor and pipeline parallel."""
