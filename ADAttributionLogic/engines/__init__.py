"""Where tasks are computed: in this process, in several on this machine, on a Dask cluster, or a share of a job array.

An engine takes tasks (plain values) and a picklable opening that makes, once per worker, what all tasks share: the
network, the atlas, the controls. It yields outcomes as they come, tries again what a lost worker had in hand, and knows
nothing of scans. What travels between our own processes is pickled by them, on a Dask cluster through its scheduler,
which has to be trusted; nothing that was read from a file is.
Needs no torch.
"""
