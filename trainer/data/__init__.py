"""From files, the hub or an embedded set to tokenized samples on disk."""
