"""WHAT is learned: sources by name, rows, token ids and labels."""
