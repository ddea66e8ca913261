"""Gradients estimated by evolution strategies."""
