"""What a run will train and need, before anything is loaded."""
