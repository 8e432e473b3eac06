"""Settings searched under a budget."""
