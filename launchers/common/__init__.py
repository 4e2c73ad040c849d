"""What several launchers share: command lines, and what torchrun writes."""
