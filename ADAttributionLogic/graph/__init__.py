"""A network as the methods see it: layers and operations, folded, recorded as it runs, with gradients and reach."""
