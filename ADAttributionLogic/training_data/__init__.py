"""What a network learns from: a cohort's table, its split by subject, scans as prepared, their augmentation, and
loading them ahead of the training."""
