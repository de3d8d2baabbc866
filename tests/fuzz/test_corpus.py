"""Every input that once failed, every seed, and a short run of blind mutations, without atheris."""

from __future__ import annotations

import pkgutil
import tracemalloc
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .cached import FUNCTIONS, constants_cached
from .guard import SCRATCH, Broken, Target, armed, check, deadline
from .targets import TARGETS, failure, fuzz_blindly, minimised

# Readers import families when they need them, and pytest makes folders for what it compiles, which
# no reader may do: modules are imported before.
for package in (
    import_module(f"ldmref.{name}") for name in ("families", "io", "models", "prompts")
):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        import_module(module.name)

CORPUS = Path(__file__).with_name("corpus")
KEPT = [
    pytest.param(name, path, id=f"{name}-{path.name}")
    for name in TARGETS
    for path in sorted((CORPUS / name).glob("*"))
]
MEGABYTES = 128  # of Python's and NumPy's memory for one small input


@pytest.mark.parametrize(("name", "path"), KEPT)
def test_what_once_failed_does_not(name, path):
    check(TARGETS[name], path.read_bytes())  # imports and caches
    tracemalloc.start()
    try:
        with deadline(60):
            check(TARGETS[name], path.read_bytes())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEGABYTES * 2**20


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_broken_seeds(name):
    target = TARGETS[name]
    for seed in target.seeds():
        for data in (seed, b"", seed[:-1], seed[: len(seed) // 2], seed + b"\0", seed * 2):
            check(target, data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=30)
@given(random=st.randoms(use_true_random=False))
def test_mutations(name, random):
    target = TARGETS[name]
    check(target, fuzz_blindly(target, target.seeds(), random))


def test_corpus_belongs_to_targets_and_is_small():
    assert {path.name for path in CORPUS.iterdir()} <= {*TARGETS}
    assert sum(path.stat().st_size for path in CORPUS.rglob("*")) < 300_000


# -- the guard itself -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "open('/dev/null', 'w')",
        "open('/etc/passwd')",
        "__import__('os').remove('/nowhere')",
        "__import__('os').system('true')",
        "__import__('socket').socket()",
        "open('SCRATCH/../../etc/passwd')",
        "__import__('pickle').loads(b'cos\\nsystem\\n.')",
        "__import__('subprocess').Popen('true')",
    ],
)
def test_touching_anything_is_noticed(code):
    for module in ("socket", "pickle", "subprocess"):
        __import__(module)
    with pytest.raises(Broken), armed():
        eval(code.replace("SCRATCH", str(SCRATCH)))


def test_what_is_cached_is_put_back():
    before = [getattr(module, name) for module, name, _ in FUNCTIONS]
    inside = constants_cached(lambda: [getattr(module, name) for module, name, _ in FUNCTIONS])()
    assert inside == [function for _, _, function in FUNCTIONS] != before
    with pytest.raises(ZeroDivisionError):
        constants_cached(lambda: 1 / 0)()
    assert [getattr(module, name) for module, name, _ in FUNCTIONS] == before


def test_other_errors_slowness_and_memory_are_noticed(monkeypatch):
    def run(data: bytes) -> None:
        if data == b"slow":
            for _ in range(10**7):
                pass
        elif data == b"large":
            bytearray(700 * 2**20)
        else:
            data.decode()

    target = Target(run, lambda: [])
    monkeypatch.setattr("fuzz.guard.SECONDS", 0.05)
    assert failure(target, b"fine") is None
    for data in (b"slow", b"large"):
        with pytest.raises(Broken):
            check(target, data)
    with pytest.raises(UnicodeDecodeError):
        check(target, b"a\xffb")
    assert minimised(target, b"much text \xff and more of it") == b"\xff"
