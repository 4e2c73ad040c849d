"""One attempt of a run on one rank, from start to result."""
