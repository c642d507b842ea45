"""Who sees personal data.

pii         what of a value may be shown, and what an error may say
encryption  AES-256-GCM of tagged fields and of dead letters, and the file of keys
"""

__all__ = ["encryption", "pii"]
