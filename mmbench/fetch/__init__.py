"""Everything that comes over the network: raw files and pictures. Nothing else in mmbench opens a connection.

client.py    one polite session, and which failures are worth another try
files.py     one raw file: mirrors, resume, retries, checks before it takes its name
part.py      the part of a file that is there, and of which version
check.py     whether a content can be what its name promises
raw.py       the raw files of a data set, compared with what was recorded of them
pictures.py  the pictures of the items; jobs.py, hosts.py: many small downloads without troubling a host
"""
