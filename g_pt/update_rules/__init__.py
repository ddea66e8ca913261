"""Everything that changes networks step by step: optimizers and the G.pt, behind one protocol."""
