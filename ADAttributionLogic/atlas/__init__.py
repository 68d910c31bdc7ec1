"""Atlases and templates: label maps with names, shipped or of the user's own, and the brain that they were drawn on."""
