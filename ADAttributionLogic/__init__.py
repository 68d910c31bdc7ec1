"""ADAttribution: which brain regions made a CNN decide as it did on a T1 MRI scan.

The logic layer: plain Python, importable without 3D Slicer. Start with :func:`ADAttributionLogic.explain.explain`.
Research software, not for clinical use.
"""

__version__ = "0.1.0"
