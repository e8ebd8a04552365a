"""python -m dsmem.runs record | compare: see `dsmem.runs.recordings`."""

import sys

from dsmem.runs.recordings import main

if __name__ == "__main__":
    sys.exit(main())
