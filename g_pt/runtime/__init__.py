"""The surroundings of a process: other processes, memory, seeds."""
