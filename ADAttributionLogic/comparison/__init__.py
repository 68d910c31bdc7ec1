"""A scan against a reference of controls: how unusual the relevance of each region, and of each voxel, is.

Statistics of arrays (:mod:`.scores`, :mod:`.adjusted`, :mod:`.z_map`), and what they say of an explanation and a
reference package together (:mod:`.comparing`, a :class:`~.comparing.Comparison`). Nothing here builds references.
"""
