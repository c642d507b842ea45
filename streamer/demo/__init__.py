"""`streamer demo`: everything that a first look needs, started on this machine and gone afterwards.

session    starts the rest, watches it, and stops it in order
broker     librdkafka's mock cluster, in a process of its own: no isolation, nothing kept, small
answers    the Redis behind the cache, the best that is to be had
serve      one worker, in a process of its own: what `streamer run` does, on topics that it makes first
children   processes that never outlive the demo
simulator  events at a rate, some broken on purpose
reader     predictions and dead letters as they arrive
tally      what became of every event, and how long it took
scrape     what the workers' /metrics say
summary    the closing account
view       the live screen, and plain lines where there is none
"""

__all__ = ["children", "scrape", "serve", "session", "summary", "tally", "view"]
