"""What is measured, and how: `python -m benchmarks.replay` for answers, `python -m benchmarks.saturation` for speed."""
