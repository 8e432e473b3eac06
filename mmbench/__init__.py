"""mmbench: a benchmarking toolkit for multi-modal sequential recommendation."""

__version__ = "0.1.0"
