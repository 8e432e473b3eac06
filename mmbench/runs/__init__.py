"""A run, its record, and who computes it."""
