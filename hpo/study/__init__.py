"""A study: its event log, its folder, and what its controllers share."""
