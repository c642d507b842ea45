"""Kafka: records in, outcomes and offsets out. confluent-kafka is imported here, and by `cli`, `demo` and `bench`,
which read and write beside the engine.

source         the consumer: group, rebalance, pausing, offsets
columns        messages of the client become columns
ranged         a source that ends: the records of a range
membership     whether this replica is a member of its group
consuming      settings of the consumer, and which of its errors are final
exactly_once   the sink with transactions
at_least_once  the sink without transactions
producing      what both sinks do with a producer
line           lost connections and repeated requests of a producer, from its statistics
rivals         whether another process uses the same transactional id
rights         which ACL is missing, in the words of the person who can grant it
clients        short-lived clients for commands and benchmarks
"""

__all__ = ["at_least_once", "clients", "exactly_once", "line", "ranged", "rights", "source"]
