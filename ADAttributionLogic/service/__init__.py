"""The process that computes for 3D Slicer: its protocol, its jobs, what it keeps warm, its answers and estimates."""
