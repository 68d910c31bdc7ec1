"""From a module or an exported program to the graph: which operations it is made of, in which order, and its head."""
