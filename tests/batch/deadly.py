"""Models that kill their process, for workers: importable by name in a spawned process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import ldmref
from ldmref.errors import InputError


def load_tiny():
    return ldmref.random_model("tiny", backend="numpy")


def load_deadly(folder, times):
    """A model that kills its process while it generates a prompt with "hat", so many times."""
    model = load_tiny()
    encode = model.encode_prompts

    def encode_or_die(prompts, *arguments):
        deaths = list(Path(folder).glob("death-*"))
        if any("hat" in prompt for prompt in prompts) and len(deaths) < times:
            Path(folder, f"death-{len(deaths)}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(prompts, *arguments)

    model.encode_prompts = encode_or_die
    return model


def load_in_parent_only(pid):
    """Return a model that only the process of the batch can load: its workers die."""
    if os.getpid() != pid:
        os._exit(3)
    return load_tiny()


def fail_in_workers(pid):
    """Return a model that workers cannot load, with an error of ours."""
    if os.getpid() != pid:
        raise InputError("no such model here", code="E-MODEL")
    return load_tiny()


def load_another_in_workers(pid):
    """Return a model that has other weights in workers."""
    return ldmref.random_model("tiny", seed=int(os.getpid() != pid), backend="numpy")


def load_failing():
    """A model that fails for the prompts "cat" and "dog": by an error of ours, by another one."""
    model = load_tiny()
    encode = model.encode_prompts

    def encode_or_fail(prompts, *arguments):
        if "cat" in prompts[0]:
            raise RuntimeError("a bug\nwith two lines")
        if "dog" in prompts[0]:
            raise MemoryError
        return encode(prompts, *arguments)

    model.encode_prompts = encode_or_fail
    return model
