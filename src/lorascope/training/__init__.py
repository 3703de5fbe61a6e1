"""Training with TRL, checkpoints, exact resume."""
