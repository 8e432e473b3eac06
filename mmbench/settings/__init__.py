"""Configuration, recipes, and where a value came from."""
