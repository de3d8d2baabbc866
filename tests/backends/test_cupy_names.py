"""Every function of CuPy that ldmref uses exists in the installed CuPy; it needs no GPU."""

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import ldmref
from ldmref.backends.fast.cupy import FastCupyBackend

PACKAGE = Path(ldmref.__file__).parent
BACKEND_FILES = [  # whose `self.lib` is CuPy when the backend is
    Path(inspect.getfile(kind)) for kind in FastCupyBackend.__mro__ if "ldmref" in kind.__module__
]
NOT_ON_ARRAYS = {"check", "cases", "plots", "testing", "pytest_plugin"}  # packages on NumPy alone


def chain(node: ast.AST) -> list[str]:
    """Return ["self", "lib", "pad"] for the node of `self.lib.pad`; [] if a call is in it."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        start = chain(node.value)
        return [*start, node.attr] if start else []
    return []


def names_after(file: Path, starts: set[tuple[str, ...]]) -> Iterator[tuple[str, set[str]]]:
    """Yield the names after one of the starts, `lib.stride_tricks`, with their calls' keywords."""
    tree = ast.parse(file.read_text("utf-8"))
    called = {id(n.func): n for n in ast.walk(tree) if isinstance(n, ast.Call)}
    for node in ast.walk(tree):
        words = chain(node) if isinstance(node, ast.Attribute) else []
        for start in starts:
            if words[: len(start)] == list(start) and len(words) > len(start):
                call = called.get(id(node))
                keywords = {k.arg for k in call.keywords if k.arg} if call else set()
                yield ".".join(words[len(start) :]), keywords


def look_up(namespace: object, name: str) -> object:
    """Return the object at a dotted name, or fail with the name."""
    for word in name.split("."):
        if not hasattr(namespace, word):
            pytest.fail(f"{namespace!r} has no {word!r} ({name})")
        namespace = getattr(namespace, word)
    return namespace


def check_keywords(function: object, name: str, keywords: set[str]) -> None:
    """Check that a function takes keywords; functions written in C do not say."""
    try:
        parameters = inspect.signature(function).parameters  # pyright: ignore
    except (TypeError, ValueError):
        return
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        assert keywords <= set(parameters), (name, keywords - set(parameters))


@cache
def library_names() -> dict[str, set[str]]:
    """Return the names after `self.lib` and `lib` in the backend's files, with keywords."""
    names: dict[str, set[str]] = {}
    for file in dict.fromkeys(BACKEND_FILES):
        for name, keywords in names_after(file, {("self", "lib"), ("lib",)}):
            names.setdefault(name, set()).update(keywords)
    return names


@cache
def namespace_names() -> dict[str, set[str]]:
    """Return the names after `xp`, `ops.xp` and `self.xp` in the package, with keywords."""
    starts = {("xp",), ("ops", "xp"), ("self", "xp"), ("self", "model", "backend", "xp")}
    names: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        if "xp." not in file.read_text("utf-8"):
            continue
        if file.relative_to(PACKAGE).parts[0].removesuffix(".py") not in NOT_ON_ARRAYS:
            for name, keywords in names_after(file, starts):
                names.setdefault(name, set()).update(keywords)
    return names


def test_the_walk_finds_the_names():
    """Without CuPy: a name of each kind is found, so that an empty list cannot pass."""
    names = library_names()
    assert {"asarray", "cuda.Device", "ElementwiseKernel", "ReductionKernel"} <= set(names)
    assert names["lib.stride_tricks.sliding_window_view"] == {"axis"}
    assert len(names) > 20
    names = namespace_names()
    assert {"reshape", "concat", "permute_dims", "exp"} <= set(names) and len(names) > 40


@pytest.fixture
def cupy(skip):
    """The real CuPy, with or without a GPU."""
    try:
        import cupy
    except ImportError as error:
        skip("cupy", f"not installed ({error})")
    return cupy


def test_every_name_of_the_library_exists_in_the_installed_cupy(cupy):
    for name, keywords in library_names().items():
        check_keywords(look_up(cupy, name), name, keywords)
    for name in "reshape transpose astype repeat mean sum max T dtype size view".split():
        assert hasattr(cupy.ndarray, name), name
    device = cupy.cuda.Device
    assert device.use and device.synchronize and device.__enter__ and device.__exit__


def test_every_name_of_the_array_namespace_exists_for_the_installed_cupy(cupy):
    import array_api_compat.cupy as xp

    for name, keywords in namespace_names().items():
        check_keywords(look_up(xp, name), name, keywords)


def test_the_error_function_exists_in_the_installed_cupy(cupy):
    from cupyx.scipy.special import erf

    assert erf.nin == 1
