"""What every model must keep: checks on a small data set for the tests and for `mmbench check`, and canaries."""
