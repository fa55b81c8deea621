"""What is measured: each module is one benchmark, `python -m benchmarks.NAME`."""
