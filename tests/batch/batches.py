"""Rows, folders and processes that the tests of batches share."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ldmref.io.native import save_folder
from ldmref.models.model import model_spec
from ldmref.models.params import init
from ldmref.models.presets import preset
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.words import word_tokenizer

WORDS = ("red", "blue", "green", "heart", "cat", "dog", "face", "hat")


def make_rows(n, seed=0):
    """Return rows of several kinds; some are equal, and every tenth is wrong."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        row = {"prompt": " ".join(rng.choices(WORDS, k=2)), "steps": rng.randint(1, 3)}
        if i % 3 == 0:
            row["custom_id"] = f"row {i}"
        if i % 4 == 1:
            row["seed"] = rng.randint(0, 3)
        if i % 5 == 2:
            row |= {"mode": "img2img", "image": "given.png", "strength": 1.0}
        if i % 7 == 3:
            row["count"] = 2
        if i % 10 == 9:
            row["steps"] = 0
        rows.append(row)
    return rows


def write_rows(path, rows):
    """Write the rows as a file, next to the image that some of them name."""
    Image.new("RGB", (16, 16), "teal").save(path.with_name("given.png"))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def save_tiny_model(folder):
    """Save a folder of ldmref: preset `tiny` with random weights."""
    config = preset("tiny")
    words = PromptTokenizer(word_tokenizer([" ".join(WORDS)], 512), 16)
    save_folder(folder, config, init(model_spec(config), 0), [words], np.float32)
    return folder


def read_folder(folder):
    """Return the bytes of every file, by its path; locks, which stay, are left out."""
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in sorted(names.items())
        if name != ".lock"
    }


def read_jsonl(path):
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def start_batch(requests, out, *flags, **options):
    """Start `ldmref batch` as a process with its own group."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LDMREF_", "RAY_"))}
    command = [sys.executable, "-m", "ldmref", "batch", str(requests), "-o", str(out), *flags]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        list(map(str, command)),
        env=kept | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
        **streams | options,
    )


def run_to_the_end(requests, out, *flags):
    """Run `ldmref batch` to its end; return exit code, standard output and error."""
    process = start_batch(requests, out, *flags)
    stdout, stderr = process.communicate(timeout=600)
    return process.returncode, stdout.decode(), stderr.decode()


def count_images(out):
    return sum(1 for _ in Path(out).glob("images/*.png"))


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.002)


def kill_when(process, condition):
    """Kill the process when the condition holds; returns whether it was still running."""
    while process.poll() is None and not condition():
        time.sleep(0.002)
    running = process.poll() is None
    if running:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return running


def find_children(pid, name):
    """Return the processes below a process whose command line contains a name."""
    parents = {}
    commands = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            commands[int(stat.parent.name)] = (stat.parent / "cmdline").read_bytes().decode()
        except (OSError, ValueError):
            continue
        parents[int(stat.parent.name)] = int(fields[1])

    def is_below(child):
        while child in parents:
            child = parents[child]
            if child == pid:
                return True
        return False

    return [child for child, command in commands.items() if name in command and is_below(child)]
