"""What if this region were not there: parts of a scan are covered, and the network answers anew, at once.

`opening.py` begins with a scan and `session.py` answers its trials; `covers.py` says what is covered, `placing.py`
brings regions, segments and boxes onto the network's grid, `filling.py` makes what is put there, `mirroring.py` the
other side among it, and `warm.py` follows a change through one network with the scan's recorded activations.
"""
