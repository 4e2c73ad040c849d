"""What a person reads: the live display, the summary, plots and comparisons."""
