"""Data sets that come out of Python packages or a seed."""
