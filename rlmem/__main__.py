"""`python -m rlmem` is the same program as `rlmem`."""

import sys

from rlmem.cli import main

sys.exit(main())
