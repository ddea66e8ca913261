"""What a process is given: other processes, memory, seeds."""
