"""Time and memory: each module is one benchmark, `python -m benchmarks.NAME`."""
