"""Models and tokenizers: built, adapted, padded, loaded and saved."""
