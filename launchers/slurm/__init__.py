"""Slurm: batch scripts, arrays, containers."""
