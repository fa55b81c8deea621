"""Long work, killed at random moments and gone on with; `python -m tests.kill --help`."""
