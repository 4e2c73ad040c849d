"""The command line: options, and one module a verb. It may import every other package; none imports it."""
