"""The backends of collectives between CPU ranks, besides those of torch."""
