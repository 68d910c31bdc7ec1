"""The commands of ``ad-attribution``, one file each: it adds its parser (``add``) and runs.

Beside them, what several commands share: options of the preparation, the progress bar, how lists are printed.
"""
