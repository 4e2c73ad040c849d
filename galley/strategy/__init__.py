"""How a run lies on its ranks: names, degrees of parallelism, memory, and the choice of `auto`."""
