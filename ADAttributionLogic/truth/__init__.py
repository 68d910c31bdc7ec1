"""A benchmark with known truth: maps of simulated patients against the displacement that made them patients.

* ``patients``: simulated patients and the control mean by seed, none of them seen in training, kept in a folder;
* ``metrics``: pure functions of a map and the truth;
* ``contestants``: the methods with their main options, and what must lose: an edge filter, noise, an untrained network;
* ``scoring``: one file per patient and contestant, so that an interrupted run goes on;
* ``shared_work``: tasks among processes, whose number changes no bit;
* ``summary``: means with bootstrap intervals, the table and the figure.

``make benchmark-truth`` runs it; ``ad-attribution benchmark-truth --map-folder`` scores the maps of another tool.
"""
