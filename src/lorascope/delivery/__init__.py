"""What becomes of a run: its adapter merged into the base."""
