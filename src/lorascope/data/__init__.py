"""What is learned: rows, formats, splits, token ids."""
