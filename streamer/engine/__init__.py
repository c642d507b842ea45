"""The engine: from a record that was polled to outcomes that are durable. It has no Kafka client, no device and no
clock of its own; the seams of `streamer.ports` bring them.

loop          the owner thread: `Engine.step` names every stage
ledger        in-order release: records are settled in any order and released in the order of arrival
intake        decode, filter, features and cache, before an event needs the device
sharing       equal events in flight share one answer
batcher       which events make the next batch, and why now
dispatch      which batch the device gets next
attempts      records that kill the process
dead_letters  when too many dead letters stop the worker
checkpoint    what becomes durable together, and what is done when a commit fails
committer     the thread that waits for the broker during a commit
"""

__all__ = ["attempts", "batcher", "checkpoint", "committer", "loop"]
