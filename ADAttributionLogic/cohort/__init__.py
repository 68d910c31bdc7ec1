"""Tables of subjects: who was scanned when, with which diagnosis and covariates, and what a batch found in each."""
