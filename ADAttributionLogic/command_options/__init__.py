"""Groups of options that several commands of ``ad-attribution`` share, and what was asked by them as plain values."""
