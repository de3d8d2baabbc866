"""`torchrun --nproc-per-node 2 -m ldmref.training recipe.toml`: `ldmref train` on two processes."""

import sys

from ldmref.__main__ import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    sys.exit(main())
