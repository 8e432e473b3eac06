"""Tests of mmbench; `toy.py` holds the small data set that most of them share."""
