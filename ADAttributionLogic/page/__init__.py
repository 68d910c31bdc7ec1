"""A result as one HTML file that can be mailed: it opens offline, asks no network for anything, and prints.

``volumes`` crops and quantises what the slices show, ``drawings`` makes small pictures (SVG), ``sections`` turns an
answer's plain values into what the page says, ``assembly`` puts the page together, ``files`` writes it, ``index`` lists
the pages of a batch, ``animation`` makes a film of the slices. Template, style and script are in ``Resources/Report``.
"""
