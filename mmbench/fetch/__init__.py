"""Everything that comes over the network: raw files and pictures. Nothing else in mmbench opens a connection.

client.py    one polite session, and which failures are worth another try
"""
