"""Is a network new, or a copy of one that the model has seen? Functions of arrays; `g_pt.report.novelty` joins them."""
