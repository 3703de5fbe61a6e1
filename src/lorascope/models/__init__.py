"""The frozen base: architectures, the packaged model, the hub, loading and quantizing."""
