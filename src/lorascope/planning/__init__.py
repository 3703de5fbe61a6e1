"""Planning a run: what it will train, and the memory and compute it will take, before anything is loaded."""
