"""The life of a run, whichever launcher starts it: submitted, followed, ended, found again."""
