"""`streamer windows`: what a worker's windows count, kept in a table of faust-streaming and shown in Redis.

faust brings the consumer group, the table with its changelog, and the recovery of both. Nothing outside this room
knows faust.

running      settings and a worker class become a running process
service      faust's app: what happens to a block, and to a partition that comes or goes
blocks       all records of a partition that one poll brings, as one message of faust
keeper       pure: what a block changes of its entities
table        faust's table, written to its changelog first
shelf        the copy in Redis, which workers read
credentials  librdkafka's names of credentials, as faust's client takes them
"""

__all__ = ["running"]
