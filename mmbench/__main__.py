"""`python -m mmbench` does what the `mmbench` command does."""

from mmbench.cli import main

if __name__ == "__main__":
    main()
