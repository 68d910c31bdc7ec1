"""Networks as packages: architectures known by name, weights and cards that are read and checked, never executed."""
