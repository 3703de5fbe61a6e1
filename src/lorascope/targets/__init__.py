"""WHERE the adapter goes: roles, the module map of a model, plans, attaching."""
