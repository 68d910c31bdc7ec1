"""Occlusion: how much less sure the network is when boxes, single voxels or regions are covered, and how they are."""
