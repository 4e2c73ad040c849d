"""A study: its event log, its folder, and what several controllers of it share."""
