"""This machine, without imports: ranks are forked from servers that hold the libraries."""
