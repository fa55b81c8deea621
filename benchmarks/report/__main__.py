"""`python -m benchmarks.report`."""

import sys

from benchmarks.report.write import main

sys.exit(main())
