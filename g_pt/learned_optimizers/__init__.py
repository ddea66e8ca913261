"""Optimizers whose weights are learned: weights -> `g_pt.update_rules.base.Optimizer`."""
