"""Measurements, each a module: `python -m benchmarks.NAME`. See README.md beside this file."""
