"""The worker that trains. The only package that imports torch."""
