"""The architectures that are known by name, with the parameter names of their authors' code."""
