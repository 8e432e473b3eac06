"""Everything that comes over the network: raw files and pictures. Nothing else in mmbench opens a connection.

client.py    a polite session; which failures are worth another try
files.py     a raw file: mirrors, resume, retries, checks before it gets its name
part.py      the part of a file that has arrived, and the version to which it belongs
check.py     whether a file's content can be what its name promises
raw.py       the raw files of a data set, compared with what was recorded about them
pictures.py  the pictures of the items; jobs.py, hosts.py: many small downloads that do not burden a host
"""
