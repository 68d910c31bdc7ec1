"""From a scan as acquired to what a network was trained on: brain, bias field, registration, normalisation, quality."""
