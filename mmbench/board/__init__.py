"""Results that others can check: bundles, their verification, lists of other programs, the leaderboard's pages.

manifest.py    what a bundle says of itself, and which files it may hold
private.py     paths and names of people and machines, taken out of what is passed on
archive.py     zip files: written the same every time, read without trust
writing.py     a configuration's runs -> a bundle
opened.py      a bundle, unpacked into a folder of results
checks.py      what can be checked without data: hashes, ranks, lists, curves, seeds
verification.py  all checks of a bundle, and the verdict that is stored beside it
retraining.py  a checkpoint ranked again, seeds trained again (needs the data)
external.py    lists of any other program -> a run that tables treat like others
"""
