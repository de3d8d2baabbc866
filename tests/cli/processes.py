"""Run the command line in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LDMREF = [sys.executable, "-m", "ldmref"]
POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and pipes")


def environment():
    """Return a user's environment: without ldmref's settings, with buffered streams, on one thread.

    Without bytecode: a process whose files may not grow would leave half a .pyc for all others.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LDMREF_")}
    kept.pop("PYTHONUNBUFFERED", None)  # which hides failures to write at the end
    kept |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1"}


def start(*argv, **options):
    """Start `ldmref ...`."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment()}
    return subprocess.Popen([*LDMREF, *map(str, argv)], **pipes | options)


def run(*argv, **options):
    """Run `ldmref ...` to its end; return exit code, standard output and error."""
    process = start(*argv, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, (out or b"").decode(), (err or b"").decode()
