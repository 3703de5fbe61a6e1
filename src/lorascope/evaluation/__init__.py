"""What was learned: metrics and eval loss."""
