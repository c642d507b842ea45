"""The cache of answers, and the client of Redis.

answers       answers by content key: this process first, Redis behind it
redis_client  calls with a bounded wait, and a circuit breaker
"""

__all__ = ["answers", "redis_client"]
