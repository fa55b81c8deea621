"""`python -m benchmarks.report`."""

from benchmarks.report.write import main
from randar_features.command_line import run_command

run_command(main)
