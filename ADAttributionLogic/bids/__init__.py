"""The Brain Imaging Data Structure: which T1w images a dataset holds, and results as a dataset of derivatives.

``images`` and ``selection`` choose from an index (bids2table), ``cohort`` says whose each is, ``validation`` refuses
what is no dataset. ``naming``, ``publishing`` and ``description`` write derivatives, ``derivatives`` reads them back;
``participant`` and ``group`` are the two levels of the BIDS-App.
"""
