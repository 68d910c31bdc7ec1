"""Several networks of one architecture, explained together: the mean of their maps, and how far they agree."""
