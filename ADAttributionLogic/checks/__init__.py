"""Should I believe this map? Measurements on the network and the scan at hand, one file per check.

Each check (:mod:`~.conservation`, :mod:`~.recomputation`, :mod:`~.stability`, :mod:`~.randomisation`,
:mod:`~.deletion`, :mod:`~.causality`) is a function of a :class:`~.question.Question` (networks, scan, class, what
replaces tissue, regions) and a :class:`~.question.CheckedMap`; it returns a :class:`~.findings.Check`: a number, what
that number is for something that explains nothing (its null), a verdict and a sentence. :mod:`~.agreement` compares the
maps of one run with each other, :mod:`~.budget` says beforehand what each check costs and which fit,
:func:`~.running.run_checks` runs them. :mod:`~.findings` and :mod:`~.table_files` need no torch.
"""
