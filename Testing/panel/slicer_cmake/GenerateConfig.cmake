# Nothing: other extensions do not build on this one.
