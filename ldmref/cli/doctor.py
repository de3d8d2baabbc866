"""`ldmref doctor`: check the installation and run a self-test."""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import click

import ldmref
from ldmref.cli.progress import one_line
from ldmref.errors import LdmrefError, VerifyError

MINIMUM = {
    "numpy": "2.0",
    "scipy": "1.13",
    "pillow": "12.3",
    "safetensors": "0.5",
    "tokenizers": "0.21",
    "array-api-compat": "1.12",
    "threadpoolctl": "3.5",
    "click": "8.1",
}
OPENBLAS_OVERRIDES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # of what OpenBLAS detects
AVX2_KERNELS = ("Haswell", "Zen")


@dataclass(frozen=True)
class Finding:
    """One line of the report; `ok` is None for plain information."""

    topic: str
    value: str
    ok: bool | None = None
    advice: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def doctor(as_json: bool) -> None:
    """Check versions, BLAS and backends, and run a self-test."""
    findings = [*versions(), *blas(), *backends(), embedded_model(), *self_test()]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for f in findings:
            mark = {True: "ok", False: "BAD", None: "-"}[f.ok]
            advice = f"  ({f.advice})" if f.advice else ""
            click.echo(one_line(f"{mark:4}{f.topic:18}{f.value}{advice}"))
    failed = [
        f.topic for f in findings if f.topic.startswith(("self-test", "model")) and f.ok is False
    ]
    if failed:
        raise VerifyError(f"failed: {', '.join(failed)}", code="E-SELF-TEST")


COMMANDS = (doctor,)


def versions() -> list[Finding]:
    """Python, ldmref, the machine, and each dependency against its minimum version."""
    findings = [
        Finding("python", platform.python_version()),
        Finding("ldmref", ldmref.__version__),
        Finding(
            "machine", f"{platform.machine()} {platform.system()}, {os.cpu_count()} processors"
        ),
    ]
    for name, minimum in MINIMUM.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            findings.append(Finding(name, "missing", False, f"pip install '{name}>={minimum}'"))
            continue
        ok = version_numbers(version) >= version_numbers(minimum)
        findings.append(Finding(name, version, ok, "" if ok else f"needs at least {minimum}"))
    return findings


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version string.

    >>> version_numbers("2.4.6rc1")
    (2, 4, 6)
    """
    match = re.match(r"[\d.]*\d", version)
    return tuple(int(number) for number in match.group().split(".")) if match else ()


def blas() -> list[Finding]:
    """NumPy's BLAS: library, kernels, threads, and the variables that override its kernels."""
    from threadpoolctl import threadpool_info

    libraries = [lib for lib in threadpool_info() if lib["user_api"] == "blas"]
    numpy_blas = next((lib for lib in libraries if "numpy" in lib["filepath"]), {})
    library = f"{numpy_blas.get('internal_api', 'unknown')} {numpy_blas.get('version', '')}"
    return [
        Finding("blas", library.strip()),
        *blas_kernels(str(numpy_blas.get("architecture", "unknown")), has_avx512()),
        Finding("blas threads", str(numpy_blas.get("num_threads", "unknown"))),
    ]


def blas_kernels(kernels: str, avx512: bool) -> list[Finding]:
    """OpenBLAS' kernels, and the environment variables in place of its own choice.

    `avx512`: whether the processor has AVX-512, which OpenBLAS uses unless a variable forbids it.
    """
    overrides = [name for name in OPENBLAS_OVERRIDES if os.environ.get(name)]
    advice = ""
    if avx512 and kernels in AVX2_KERNELS:
        remedy = f"unset {' '.join(overrides)}" if overrides else "pip install --upgrade numpy"
        advice = f"AVX2 only, about half the speed of this processor; {remedy}"
    return [
        Finding("blas kernels", kernels, None, advice),
        *(
            Finding(
                name,
                os.environ.get(name) or "not set",
                None,
                f"overrides what OpenBLAS detects; unset {name}" if name in overrides else "",
            )
            for name in OPENBLAS_OVERRIDES
        ),
    ]


def has_avx512() -> bool:
    """Whether NumPy sees AVX-512 on this processor."""
    import numpy

    simd: Any = numpy.show_config(mode="dicts").get("SIMD Extensions", {})  # type: ignore[union-attr]
    features = [*simd.get("baseline", ()), *simd.get("found", ())]
    return any(feature.startswith("AVX512") or feature == "X86_V4" for feature in features)


def backends() -> list[Finding]:
    """Whether each backend runs here; only NumPy is required. Plug-ins are named, not imported."""
    from ldmref.backends import GROUP, available
    from ldmref.plugins import list_plugins

    built_in = [
        Finding(f"backend {name}", reason or "runs", not reason if name == "numpy" else None)
        for name, reason in available().items()
    ]
    plugins = list_plugins(GROUP).items()
    return [*built_in, *(Finding(f"plug-in {name}", f"of {package}") for name, package in plugins)]


def embedded_model() -> Finding:
    """The bundled emoji model: every file against its published digest."""
    from ldmref.io.embedded import PUBLISHED, embedded_folder, require_published
    from ldmref.io.native import WEIGHTS

    try:
        require_published(embedded_folder("emoji"))
    except LdmrefError as error:
        return Finding("model emoji", str(error), False, error.hint)
    return Finding("model emoji", f"as published, sha256 {PUBLISHED['emoji'][WEIGHTS]}", True)


def self_test() -> list[Finding]:
    """Every NumPy operation against the float64 reference, and one small image."""
    from ldmref import modes
    from ldmref.backends import get_backend
    from ldmref.testing import check_backend

    try:
        ops = get_backend("numpy", "cpu", "float32")
        comparisons = check_backend(ops)
        failures = [str(comparison) for comparison in comparisons if not comparison.ok]
        image = modes.txt2img(ldmref.random_model("tiny", backend=ops), "red heart", seed=0)
        size = f"{image[0].width}x{image[0].height} with {image.params['steps']} steps"
    except Exception as error:  # any failure belongs in the report
        return [Finding("self-test", f"{type(error).__name__}: {error}", False)]
    count = f"{len(comparisons) - len(failures)} of {len(comparisons)} comparisons hold"
    return [
        Finding("self-test numpy", count, not failures, "; ".join(failures[:3])),
        Finding("self-test image", size, True),
    ]
