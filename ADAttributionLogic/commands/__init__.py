"""The commands of ``ad-attribution``, one file each: it adds its parser (``add``) and runs.

Beside them, what several commands show: the progress bar, the page of a run, how lists are printed.
"""
