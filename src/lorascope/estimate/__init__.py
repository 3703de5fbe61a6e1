"""What a run will NEED, before anything is loaded: memory, compute, and what fits on a GPU."""
