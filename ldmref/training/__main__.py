"""Run `ldmref train` on two processes: `torchrun --nproc-per-node 2 -m ldmref.training FILE`."""

import sys

from ldmref.__main__ import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    sys.exit(main())
