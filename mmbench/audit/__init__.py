"""Find printed numbers that cannot be right, by arithmetic on what a paper prints; nothing is measured.

number.py    a printed number and the interval it stands for
sources.py   the papers' numbers, from `mmbench/papers/`
ranks.py     whether any ranks give these metrics: linear programming, with a proof if none do
bands.py     printed metric values that contradict each other within a row
counts.py    hit rates as whole numbers of users
improved.py  improvements, claims about them, underlined numbers
counted.py   statistics of data sets
repeats.py   a row printed twice, or under two names
formats.py   terminal, Markdown, CSV, JSON
"""

from mmbench.audit.build import audit
from mmbench.audit.finding import MEANINGS, WEIGHTS, Audit, Finding, HitColumn
from mmbench.audit.sources import Library, library, library_of_file

__all__ = [
    "MEANINGS",
    "WEIGHTS",
    "Audit",
    "Finding",
    "HitColumn",
    "Library",
    "audit",
    "library",
    "library_of_file",
]
