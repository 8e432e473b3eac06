"""Tests of the models, one file each."""
