"""What carries collectives between CPU ranks, besides what torch brings along."""
