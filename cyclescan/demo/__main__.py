"""`python -m cyclescan.demo`."""

import sys

from cyclescan.demo import main

sys.exit(main())
