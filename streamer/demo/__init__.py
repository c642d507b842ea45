"""`streamer demo`: starts everything that a first look needs on this machine, and removes it afterwards.

session    starts the rest, watches it, and stops it in order
broker     librdkafka's mock cluster, in a process of its own: no isolation, nothing kept, small
answers    the Redis behind the cache, the best that is available
serve      one worker, in a process of its own: as `streamer run`, on topics that it creates first
children   processes that never outlive the demo
simulator  events at a rate, some broken on purpose
reader     predictions and dead letters as they arrive
tally      what became of every event, and how long it took
scrape     the figures of the workers' /metrics
summary    the closing account
view       the live screen, and plain lines where there is none
"""

__all__ = ["children", "scrape", "serve", "session", "summary", "tally", "view"]
