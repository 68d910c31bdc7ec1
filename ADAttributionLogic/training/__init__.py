"""Training of networks on one's own cohort: recipe, epochs that outlive a kill, and what comes out as a package."""
