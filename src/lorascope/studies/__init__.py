"""Comparing runs: the table and the plot. Nothing here loads torch."""
