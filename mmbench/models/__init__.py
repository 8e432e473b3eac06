"""The contract for models, and the two systems that mmbench is about."""
