"""How far an explanation depends on the training: the study of Eitel & Ritter 2019, on one's own networks and people.

The same recipe, trained several times with other seeds, gives networks that decide alike; do they also explain alike?
For each training and method the mean map and the regions' relevance of patients and controls (:mod:`.measuring`, kept
per training); from these the overlap of the ten first regions, off the diagonal and beside chance, the distance of the
mean maps, what a consensus of several trainings gains, and whether disagreement tells which regions change their rank
(:mod:`.stability`, pure functions); tables and figures as published (:mod:`.presentation`), in their order
(:mod:`.running`). Overlaps, distances and the figures' style are those of :mod:`ADAttributionLogic.study`.

References
----------
Eitel & Ritter 2019, Testing the Robustness of Attribution Methods for Convolutional Neural Networks in MRI-Based
Alzheimer's Disease Classification, doi:10.1007/978-3-030-33850-3_1.
"""
