"""Group studies: the published figures of a whole cohort, and the statistics that they lack.

Statistics of arrays, subjects × regions: cases (:mod:`.cases`), sums, densities, gain with bootstrap intervals
(:mod:`.group_regions`), covariates (:mod:`.covariates`), permutation tests (:mod:`.permutation`), coherence of rankings
(:mod:`.coherence`), patients who differ (:mod:`.distant_pair`), relevance against volume (:mod:`.volume_correlation`);
maps, a slab of voxels at a time (:mod:`.mean_maps`, :mod:`.distances`). What they are computed from (:mod:`.material`),
the order of it all (:mod:`.running`), tables, figures and the page that leads through them.
"""
