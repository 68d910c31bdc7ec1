"""Simulated people whose atrophy is known: anatomy, cohorts, and scans as a scanner would acquire them."""
