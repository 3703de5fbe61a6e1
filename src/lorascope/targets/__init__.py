"""Where the adapter goes: roles, module map, plans, attaching."""
