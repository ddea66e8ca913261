"""The G.pt: tokens, transformer, diffusion, pipeline."""
