"""`streamer bench`: what a user's own worker does on this machine, and which settings follow from it.

session   the run from start to report, in order
broker    where events flow: topics of the run's own on the user's Kafka, or the demo's mock broker
events    what is sent: the worker's own samples, or the lines of a file
curve     the worker without Kafka, on batches of 1, 2, 4, … events
child     the worker in a process of its own: what `streamer run` does, on the run's topics
serving   that process as the run sees it: probes, metrics, CPU, memory
sending   events into the source topic, all at once or at a rate
outcomes  predictions and dead letters as a reader of committed records gets them
load      one measured run: a backlog, or a rate
steps     which step of the run is being done, on stderr
measure   pure: rates, percentiles, stages, what holds the worker
proposals pure: settings that may do better, and whether they did when they were tried
advice    pure: what the figures mean, and the settings that did better
report    the figures for programs, and the same for people
"""

__all__ = ["report", "session"]
