"""Real Kafka and real Redis for tests and benchmarks, found or started by the first way that works here."""

from tests.services.cluster import Cluster, start_cluster
from tests.services.kafka_service import Kafka, local_kafka, start_kafka
from tests.services.process import Service, ServiceError
from tests.services.redis_service import Redis, start_redis
from tests.services.topics import count_topic, create_topic, end_offsets, produce_many, read_topic, unique

__all__ = [
    "Cluster",
    "Kafka",
    "Redis",
    "Service",
    "ServiceError",
    "count_topic",
    "create_topic",
    "end_offsets",
    "local_kafka",
    "produce_many",
    "read_topic",
    "start_cluster",
    "start_kafka",
    "start_redis",
    "unique",
]
