"""A network as a vector: its tensors, its metrics, its files."""
