"""Kill image generation, conversion and training at random moments, and check the files.

    python scripts/kill.py --kills 200 --seed 0

Each run is killed by SIGKILL, SIGTERM or SIGINT after a random time, then started again until it
finishes. After every kill, each image, model and checkpoint that exists must be complete, and no
file that was complete before may be missing or changed. The final result must equal, bit for bit,
the result of a run without kills. Temporary files may remain only after SIGKILL.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from safetensors import safe_open

import ldmref
from ldmref.io.native import save_folder

LDMREF = (sys.executable, "-m", "ldmref")
PACKAGE = str(Path(ldmref.__file__).parent).encode()
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
IMAGES = 30
STOPPED = {0, 130, 143, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}


class Work(NamedTuple):
    """A command to kill: its arguments for a folder, and a test for files that stay as they are."""

    name: str
    argv: Callable[[Path], list[str]]  # for the missing files, if some exist
    final: Callable[[Path], bool]


def works(model: Path, images: Path, training: bool) -> list[Work]:
    """Return the commands to kill, for preset `tiny`."""

    def draw(folder: Path) -> list[str]:
        """Generate all images, by seed; after a kill, start at the first missing image."""
        first = next((i for i in range(IMAGES) if not (folder / f"{i}.png").exists()), 0)
        return [
            "txt2img",
            "cat",
            "-m",
            str(model),
            "--steps",
            "2",
            "--seed",
            str(first),
            "-c",
            str(IMAGES - first),
            "-q",
            "--overwrite",
            "-o",
            f"{folder}/{{seed}}.png",
        ]

    def convert(folder: Path) -> list[str]:
        return ["convert", str(model), f"{folder}/out.safetensors", "--overwrite"]

    def to_folder(folder: Path) -> list[str]:
        return ["convert", str(model), f"{folder}/out", "--overwrite"]

    def train(folder: Path) -> list[str]:
        return [
            "train",
            "--data",
            str(images),
            "-o",
            f"{folder}/run",
            "--preset",
            "tiny",
            "--batch",
            "2",
            "--autoencoder-batch",
            "2",
            "--steps",
            "40",
            "--autoencoder-steps",
            "40",
            "--checkpoint-steps",
            "5",
        ]

    listed = [
        Work("draw", draw, lambda path: path.suffix == ".png"),
        Work("convert to a file", convert, lambda path: False),
        Work("convert to a folder", to_folder, lambda path: False),
    ]
    return [*listed, Work("train", train, lambda path: False)] if training else listed


def check(path: Path) -> None:
    """Raise an exception if a file is not complete."""
    if path.suffix == ".png":
        Image.open(path).load()
    elif path.suffix == ".safetensors":
        with safe_open(str(path), "np") as file:
            for name in file.keys():
                file.get_tensor(name)


def is_temporary(path: Path, folder: Path) -> bool:
    """Return whether a name is one under which incomplete files are written."""
    names = path.relative_to(folder).parts
    return names[-1].endswith(".part") or any(
        name.startswith(".") or ".tmp" in name for name in names
    )


def digests(folder: Path) -> dict[Path, str]:
    """Check all files below a folder that are not temporary, and return their digests.

    The digest of an image is that of its pixels, because the metadata of an image that is generated
    again belong to another run.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    kept = [path for path in files if not is_temporary(path, folder)]
    for path in kept:
        check(path)
    return {path.relative_to(folder): hashlib.sha256(content(path)).hexdigest() for path in kept}


def content(path: Path) -> bytes:
    return Image.open(path).tobytes() if path.suffix == ".png" else path.read_bytes()


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LDMREF_")}
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def start(argv: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [*LDMREF, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment()
    )


def finish(argv: list[str]) -> None:
    process = start(argv)
    _, err = process.communicate(timeout=600)
    if process.returncode:
        raise SystemExit(f"{argv}: exit code {process.returncode}: {err.decode()}")


def kill_once(work: Work, folder: Path, seconds: float, draw: random.Random, tally: dict) -> bool:
    """Start a command, kill it after a random fraction of `seconds`, and check its files.

    Returns:
        whether the process was still running when it was killed.
    """
    before = digests(folder)
    number = draw.choice(SIGNALS)
    process = start(work.argv(folder))
    time.sleep(draw.random() * seconds)
    alive = process.poll() is None
    process.send_signal(number)
    _, err = process.communicate(timeout=600)
    # if Ctrl-C comes before any file of ldmref runs, Python itself prints a traceback
    starting = number == signal.SIGINT and PACKAGE not in err and b"KeyboardInterrupt" in err
    wrong = process.returncode not in STOPPED or b"Traceback" in err or b"E-INTERNAL" in err
    if wrong and not starting:
        tally["wrong ends"].append(
            (work.name, number.name, process.returncode, err.decode()[-300:])
        )
    after = digests(folder)
    lost = [path for path in before if path not in after]
    changed = [path for path in before if work.final(path) and after.get(path) != before[path]]
    if lost or changed:
        tally["lost or changed"].append((work.name, number.name, lost, changed))
    files = [path for path in folder.rglob("*") if path.is_file()]
    temporary = [path for path in files if path.relative_to(folder) not in after]
    if temporary and number != signal.SIGKILL and alive:
        tally["temporary files"].append((work.name, number.name, temporary))
    for path in temporary:
        path.unlink()
    tally[work.name] += alive
    return alive


def run(kills: int, seed: int, training: bool = True) -> dict:
    """Kill the commands in turn, `kills` times in all; return the counts of faults."""
    draw = random.Random(seed)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    tally: dict = collections.defaultdict(int)
    tally |= {"lost or changed": [], "temporary files": [], "wrong ends": [], "differ": []}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        tiny = ldmref.random_model("tiny", backend="numpy")
        save_folder(root / "tiny", tiny.config, tiny.params, [tiny.tokenizer])
        (root / "images").mkdir()
        for colour in ("red", "green", "blue"):
            Image.new("RGB", (16, 16), colour).save(root / "images" / f"{colour}.png")
        listed = works(root / "tiny", root / "images", training)
        usual = {}
        seconds = {}
        for work in listed:
            folder = root / "usual" / work.name
            folder.mkdir(parents=True)
            begin = time.monotonic()
            finish(work.argv(folder))
            seconds[work.name] = time.monotonic() - begin
            usual[work.name] = digests(folder)
        done = 0
        attempt = 0
        folders: dict[str, Path] = {}
        while done < kills:
            work = listed[attempt % len(listed)]
            attempt += 1
            folder = folders.get(work.name) or root / f"{attempt}"
            folder.mkdir(exist_ok=True)
            folders[work.name] = folder
            if kill_once(work, folder, seconds[work.name], draw, tally):
                done += 1
                if done % 10 == 0:
                    print(f"{done} kills", summary(tally), file=sys.stderr, flush=True)
            if draw.random() < 0.2 or done == kills:  # let it finish, and compare the result
                finish(work.argv(folder))
                if digests(folder) != usual[work.name]:
                    tally["differ"].append(work.name)
                tally["finished afterwards"] += 1
                del folders[work.name]
    return dict(tally)


def summary(tally: dict) -> dict[str, int]:
    """Return the counts, with a list of faults replaced by its length."""
    return {name: len(x) if isinstance(x, list) else x for name, x in tally.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-training", action="store_true")
    flags = parser.parse_args()
    begin = time.monotonic()
    tally = run(flags.kills, flags.seed, not flags.without_training)
    faults = {name: value for name, value in tally.items() if isinstance(value, list)}
    print(f"{flags.kills} kills in {time.monotonic() - begin:.0f} s: {summary(tally)}")
    for name, cases in faults.items():
        for case in cases[:20]:
            print(f"  {name}: {case}")
    return any(faults.values())


if __name__ == "__main__":
    sys.exit(main())
