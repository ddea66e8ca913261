"""Flags and terminal of the commands."""
