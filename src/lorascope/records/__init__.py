"""Run records, their folders and identity."""
