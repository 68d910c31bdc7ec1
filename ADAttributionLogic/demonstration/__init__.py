"""Making of what ships: the demonstration network, its card, and the reference cohort beside it."""
