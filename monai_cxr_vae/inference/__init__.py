"""Folder runs: one film, one task, one row."""
