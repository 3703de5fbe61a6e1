"""The sweeper of `-m`."""
