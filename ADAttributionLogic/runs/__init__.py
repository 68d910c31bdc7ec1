"""A run in a folder: who has it, how far it is, what failed and why; for those who wait, and for whoever starts next.

Needs no torch, so that ``status`` answers at once from another terminal.
"""
