"""History, W&B, TensorBoard, Trackio."""
