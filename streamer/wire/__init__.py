"""The wire format: bytes become events, and outcomes become messages.

reading      a record's value to an event, within the limits
codec        `reading`, and the envelope around each answer
derive       msgspec types that are derived from pydantic models: the same verdict in a third of the time
json_limits  depth, keys and numbers that a record may hold
headers      the names of all record headers
"""

__all__ = ["codec", "derive", "headers", "reading"]
