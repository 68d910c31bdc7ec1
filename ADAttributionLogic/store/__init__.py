"""Networks that can be installed: what is registered, how it gets here, and where it is kept.

Nothing is downloaded unasked. A download is checked by size and SHA-256, converted without executing anything, and
moved into the user's folder of networks when it is complete.
"""
