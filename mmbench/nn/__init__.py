"""Layers and losses that three or more models share."""
