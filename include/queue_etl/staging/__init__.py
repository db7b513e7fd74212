"""Staged files between the tasks: one encrypted file for each kind of content of a batch."""
