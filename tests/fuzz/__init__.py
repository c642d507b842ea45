"""Millions of broken inputs for everything that reads bytes from outside: `python -m tests.fuzz`."""
