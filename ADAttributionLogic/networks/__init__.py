"""Networks as packages: weights and cards that are read and checked, never executed, and what loads other files."""
