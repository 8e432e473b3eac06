"""One run, its record, and who computes it."""
