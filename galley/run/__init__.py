"""A sealed run: its seal, its verification, and other ranks than it was sealed for."""
