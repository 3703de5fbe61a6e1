"""Settings: schema, composition, validation."""
