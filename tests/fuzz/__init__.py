"""Hostile files: every format that is read, damaged, and what its reader makes of it; `python -m tests.fuzz --help`."""
