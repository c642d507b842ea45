"""`streamer windows`: what a worker's windows count, kept in a table of faust-streaming and shown in Redis.

faust brings the group, the table with its changelog, and the recovery of both; nothing outside this package knows it.
"""
