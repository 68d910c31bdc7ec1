"""Where a scan lies in the space of a network: rigid, affine and deformable registration, and the transforms of it."""
