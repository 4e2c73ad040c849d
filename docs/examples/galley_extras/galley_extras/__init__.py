"""One example of each kind of extension."""
