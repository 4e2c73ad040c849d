"""The objects of a job, written from a sealed run. Pure functions."""
