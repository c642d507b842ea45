"""`streamer bench`: measures a user's own worker on this machine, and derives settings from it.

session   the run from start to report, in order
broker    where events flow: topics of the run's own on the user's Kafka, or the demo's mock broker
events    what is sent: the worker's own samples, or the lines of a file
curve     the worker without Kafka, on batches of 1, 2, 4, … events
child     the worker in a process of its own: as `streamer run`, on the run's topics
serving   that process as the run sees it: probes, metrics, CPU, memory
sending   events into the source topic, all at once or at a rate
outcomes  predictions and dead letters as a reader of committed records gets them
load      one measured run: a backlog, or a rate
steps     shows the current step of the run, on stderr
measure   pure: rates, percentiles, stages, the bottleneck of the worker
proposals pure: settings that may do better, and whether they did in a trial
advice    pure: what the figures mean, and the settings that did better
report    the figures for programs, and the same for people
"""

__all__ = ["report", "session"]
