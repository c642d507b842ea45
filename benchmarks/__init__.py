"""What is measured, and how: `python -m benchmarks` for speed, `python -m benchmarks.replay` for answers."""
