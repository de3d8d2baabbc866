"""Kills a small training with SIGKILL again and again, and looks at what is left; run as a script.

    python killing.py RECIPE FOLDER KILLS SEED

torch is imported once; each training is a fork. After every kill all checkpoints are read, and no
step may be lost; a training that comes to its end must equal an uninterrupted one in every byte.
Prints a JSON line with the counts.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from ldmref.training import pipeline
from ldmref.training.checkpoint import read_checkpoint, read_headers
from ldmref.training.monitor.metrics import read_metrics
from ldmref.training.recipes.file import read_recipe
from ldmref.training.training_run import train

assert pipeline  # imported here instead of in every fork


def fork_training(recipe, folder, modules=None):
    """Start the training in a child process; at its end, `modules` lists what it imported."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(recipe, folder)
            if modules is not None:
                modules.write_text("\n".join(sys.modules))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def import_all(names):
    """Import what torch loads in its first step, once for all forks."""
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def kill_at(child, seconds):
    """Kill the child then; returns whether it was still running, and did not fail."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status == 0, "the training failed"
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def read_whole(folder):
    """The steps and tensors of all checkpoints, every byte read."""
    steps = {stage: header.step for stage, header in read_headers(folder).items()}
    paths = {stage: folder / f"{stage}.safetensors" for stage in steps}
    tensors = {
        f"{stage}.{name}": array.tobytes()
        for stage, path in paths.items()
        for name, array in read_checkpoint(path)[1].items()
    }
    return steps, tensors


def untimed(folder):
    """Return the lines of the metrics without the rate."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def main(recipe_file, folder, kills, seed):
    recipe = read_recipe(recipe_file)
    root = Path(folder)
    rng = random.Random(int(seed))
    modules = root / "modules.txt"
    root.mkdir()
    assert not kill_at(fork_training(recipe, root / "once", modules), 600.0), "it takes too long"
    import_all(modules.read_text().split())
    start = time.monotonic()
    assert not kill_at(fork_training(recipe, root / "twice"), 600.0)
    duration = time.monotonic() - start
    uninterrupted = read_whole(root / "once")

    killed = 0
    completed = 0
    leftovers = [0]
    counts = []
    while killed < int(kills) or not completed:
        folder = root / f"killed-{completed}"
        before = 0
        while kill_at(fork_training(recipe, folder), rng.uniform(0.0, 0.6 * duration)):
            killed += 1
            if not folder.exists():
                continue
            steps, _ = read_whole(folder)
            count = sum(steps.values())
            assert count >= before, f"steps were lost: {before} before, {count} after"
            before = count
            counts.append(count)
            leftovers.append(sum(path.name.endswith(".part") for path in folder.iterdir()))
        assert read_whole(folder) == uninterrupted, "another result than without kills"
        assert untimed(folder) == untimed(root / "once"), "other metrics than without kills"
        assert sorted(os.listdir(folder)) == sorted(os.listdir(root / "once"))
        completed += 1
    print(
        json.dumps(
            {"killed": killed, "completed": completed, "steps": counts, "leftovers": max(leftovers)}
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
