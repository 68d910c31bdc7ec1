"""Reference cohorts: what a network's maps of controls look like, kept as statistics without anybody's data.

``package`` reads them and says whether a map may be compared with one; ``building`` makes one of a table of subjects.
"""
