"""The processes and hosts of a run: who is there, over which network, and who is gone."""
