"""`python -m ldmref` is the command `ldmref`."""

import sys

from ldmref.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
