"""Making model packages of users' own networks: files of weights, exported programs, ClinicaDL's MAPS, MONAI's bundles.

What a format says is read; what no file says (the grid, the meaning of the output, what it was trained on) is asked,
and never guessed.
"""
