"""HOW it is learned: the one call of TRL's trainer, its options, progress."""
