"""Measurements of a G.pt and of the networks that it samples."""
