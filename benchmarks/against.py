"""Is this tree slower than a commit? Both run in turn, in two processes that stay warm.

The processes use public names only, so that commits of any age can be compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ldmref.errors import UsageError

ALLOWED = 1.10  # ratio of the medians above which a row counts as slower

# What people wait for: a name, and how it is made from a small and a large model
PROGRAM = """
import json, sys, time
tree, backend, large_name = sys.argv[1:]
sys.path.insert(0, tree)
import numpy as np
import ldmref
from ldmref import modes

small = ldmref.load(backend=backend)
large = ldmref.random_model(large_name, seed=0, backend=backend)
ops = large.backend
config = large.config
normal = np.random.default_rng(0).standard_normal
size = 32
x = ops.asarray(normal((2, config.unet.in_channels, size, size), np.float32))
length = config.text_encoder.max_position_embeddings
context = ops.asarray(normal((2, length, config.unet.cross_attention_dim), np.float32))
t = ops.asarray(np.array([500.0, 500.0], np.float32))
z = x[:1, :4]
work = {
    "embedded image, 20 steps": lambda: modes.txt2img(small, "red heart", seed=1),
    large_name + " step, 32 x 32": lambda: ops.to_numpy(large.unet(x, t, context)),
    large_name + " decoder, 32 x 32": lambda: ops.to_numpy(large.decode(z)),
    large_name + " text encoder": lambda: ops.to_numpy(large.encode_text(["a red heart"])),
}
print(json.dumps(list(work)), flush=True)
for line in sys.stdin:
    run = work[json.loads(line)]
    start = time.perf_counter()
    run()
    print(json.dumps(time.perf_counter() - start), flush=True)
"""


@dataclass(frozen=True)
class TreeComparison:
    """Seconds of one piece of work, in rounds in which both trees ran."""

    name: str
    new: tuple[float, ...]
    old: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median of new / old: below 1, the working tree is faster."""
        return statistics.median(a / b for a, b in zip(self.new, self.old, strict=True))

    @property
    def slower(self) -> bool:
        return self.ratio > ALLOWED

    def __str__(self) -> str:
        times = f"({min(self.new):.3f} s, {min(self.old):.3f} s)"
        return f"{self.name:28} new / old {self.ratio:5.2f}   {times}"


def compare_with_commit(
    commit: str, *, backend: str = "numpy", rounds: int = 5, model: str = "sd15"
) -> Iterator[TreeComparison]:
    """Run the working tree and a commit in turn, and yield a comparison for each piece of work.

    Args:
        commit: Anything that names a commit for git.
        backend: Backend of both trees.
        rounds: Rounds after a first one that does not count, > 0.
        model: Preset of the large model, with random weights.

    Raises:
        UsageError: This is no git checkout, or git knows no such commit.
    """
    top = _checkout()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        old_tree = stack.enter_context(_worktree(top, commit, folder / "old"))
        programs = []
        for tree in (top, old_tree):
            programs.append(stack.enter_context(_program(tree, backend, model, folder)))
        names = [read() for _, read in programs]
        both = [name for name in names[0] if name in names[1]]
        yield from _take_turns(both, programs, rounds)


def _take_turns(
    names: Sequence[str],
    programs: Sequence[tuple[Callable[[str], None], Callable]],
    rounds: int,
) -> Iterator[TreeComparison]:
    for name in names:
        seconds: tuple[list[float], list[float]] = ([], [])
        for i in range(rounds + 1):
            for (ask, read), kept in zip(programs, seconds, strict=True):
                ask(name)
                taken = read()
                if i:  # the first round warms up
                    kept.append(taken)
        yield TreeComparison(name, tuple(seconds[0]), tuple(seconds[1]))


def _checkout() -> Path:
    """Return the folder of the git checkout that holds this file."""
    found = _git(Path(__file__).parent, "rev-parse", "--show-toplevel")
    top = Path(found.stdout.strip())
    if found.returncode or top != Path(__file__).parents[1]:
        raise UsageError(
            "--against needs a git checkout",
            code="E-CHECKOUT",
            hint="clone the repository",
        )
    return top


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


@contextlib.contextmanager
def _worktree(top: Path, commit: str, folder: Path) -> Iterator[Path]:
    """Check a commit out beside the working tree, and remove it again."""
    found = _git(
        top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}"
    )
    if found.returncode:
        message = f"git knows no commit {commit!r}"
        raise UsageError(message, code="E-COMMIT", hint="git log --oneline lists commits")
    added = _git(top, "worktree", "add", "--detach", "-q", str(folder), found.stdout.strip())
    if added.returncode:
        raise UsageError(f"git worktree add failed: {added.stderr.strip()}", code="E-COMMIT")
    try:
        yield folder
    finally:
        _git(top, "worktree", "remove", "--force", str(folder))


@contextlib.contextmanager
def _program(
    tree: Path, backend: str, model: str, folder: Path
) -> Iterator[tuple[Callable[[str], None], Callable]]:
    """Start `PROGRAM` on a tree; yield a function that asks it for work, and one that reads."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, str(tree), backend, model],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
    ) as process:
        source, target = process.stdout, process.stdin
        assert source is not None and target is not None

        def ask(name: str) -> None:
            target.write(json.dumps(name) + "\n")
            target.flush()

        def read() -> object:
            line = source.readline()
            if not line:
                raise UsageError(
                    f"the program ended that ran {tree.name}; its error stands above",
                    code="E-COMMIT",
                    hint="it uses ldmref.load, random_model and modes.txt2img",
                )
            return json.loads(line)

        try:
            yield ask, read
        finally:
            with contextlib.suppress(BrokenPipeError):
                target.close()  # ends the loop
