"""Checkpoint data sets of the reference G.pt, kept in LMDB."""
