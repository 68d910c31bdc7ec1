"""Helpers of the ADAttribution module of 3D Slicer.

Files that say "needs no Qt" also run on the slicer-core wheel from PyPI, and are tested there.
"""
