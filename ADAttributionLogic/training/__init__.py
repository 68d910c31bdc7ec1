"""Training of networks on one's own cohort: table, split, recipe, epochs that outlive a kill, and what comes out."""
