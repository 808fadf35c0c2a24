"""`python -m tinybert_rt` is the command line `tinybert-rt`."""

import sys

from tinybert_rt.cli import main

sys.exit(main())
