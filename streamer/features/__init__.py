"""Features: what is known of an entity when an event of it is answered.

reading   features from Redis, one round trip for all events of a poll
entities  what the windows keep of an entity, and what that says at an event's time
log       which features a prediction was made of, on `features.<target>`
backfill  features made again from the source topic, for training
"""

__all__ = ["backfill", "entities", "log", "reading"]
