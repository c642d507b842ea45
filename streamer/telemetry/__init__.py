"""What a process says of itself.

log        structured logs, ours and those of libraries
repeats    a warning that comes again and again is told once, then counted
metrics    all Prometheus metrics
health     the HTTP server: probes, `/metrics` and `/drain`
stopwatch  seconds by stage
progress   the bar of a long command
"""

__all__ = ["health", "log", "metrics", "progress", "stopwatch"]
