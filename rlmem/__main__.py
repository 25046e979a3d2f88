"""`python -m rlmem`: the program `rlmem`."""

import sys

from rlmem.cli.main import main

sys.exit(main())
