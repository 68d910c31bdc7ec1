"""From a scan as acquired to what a network was trained on: brain, bias field, the steps in order, normalisation,
quality, and what is kept of them. Registration has a room of its own."""
