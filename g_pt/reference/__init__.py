"""The reference G.pt (wpeebles/G.pt, Peebles et al. 2022): its model, its checkpoints and its constants."""
