"""Policies on Gymnasium environments as tasks: batched simulators, population PPO, returns of many policies at once."""
