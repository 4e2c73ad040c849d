"""Sweeps: a search space, ask/tell studies that survive anything, Pareto fronts and reports."""
