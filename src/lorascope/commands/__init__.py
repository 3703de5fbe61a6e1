"""The commands beside train: one module each, with EXAMPLE, `arguments(parser)` and `run(options)`."""
