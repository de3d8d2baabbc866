"""`ldmref doctor`: check the installation, and run a self-test."""

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
from ldmref.apps.cli.progress import one_line
from ldmref.errors import LdmrefError, VerifyError
from ldmref.support.version import describe_python

MINIMUM = {
    "numpy": "2.0",
    "scipy": "1.13",
    "pillow": "12.3",
    "tokenizers": "0.21",
    "array-api-compat": "1.12",
    "threadpoolctl": "3.5",
    "click": "8.1",
}
OPENBLAS_OVERRIDES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # replace what OpenBLAS detects
AVX2_KERNELS = ("Haswell", "Zen")


@dataclass(frozen=True)
class Diagnosis:
    """One line of the report; `ok` is None if it is information rather than a check."""

    topic: str
    value: str
    ok: bool | None = None
    advice: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Check the installation (versions, BLAS, backends), and run a self-test."""
    findings = [
        *check_versions(),
        *report_blas(),
        *check_backends(),
        *list_plugins(),
        *report_graph_cache(),
        *check_embedded_models(),
        *run_self_test(),
    ]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for f in findings:
            mark = {True: "ok", False: "BAD", None: "-"}[f.ok]
            advice = f"  ({f.advice})" if f.advice else ""
            click.echo(one_line(f"{mark:4}{f.topic:17} {f.value}{advice}"))
    failed = [
        f.topic for f in findings if f.topic.startswith(("self-test", "model")) and f.ok is False
    ]
    if failed:
        error = VerifyError(f"failed: {', '.join(failed)}", code="E-SELF-TEST")
        error.is_printed = as_json
        raise error


COMMANDS = (doctor,)


def check_versions() -> list[Diagnosis]:
    """Report Python, ldmref and the machine, and check the version of each dependency."""
    findings = [
        Diagnosis("python", describe_python()),
        Diagnosis("ldmref", ldmref.__version__),
        Diagnosis(
            "machine", f"{platform.machine()} {platform.system()}, {os.cpu_count()} processors"
        ),
    ]
    for name, minimum in MINIMUM.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            findings.append(Diagnosis(name, "missing", False, f"pip install '{name}>={minimum}'"))
            continue
        ok = parse_version(version) >= parse_version(minimum)
        findings.append(Diagnosis(name, version, ok, "" if ok else f"needs at least {minimum}"))
    return findings


def parse_version(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version string.

    >>> parse_version("2.4.6rc1")
    (2, 4, 6)
    """
    match = re.match(r"[\d.]*\d", version)
    return tuple(int(number) for number in match.group().split(".")) if match else ()


def report_blas() -> list[Diagnosis]:
    """Report NumPy's BLAS: library, kernels, threads, and variables that override its kernels."""
    from threadpoolctl import threadpool_info

    libraries = [lib for lib in threadpool_info() if lib["user_api"] == "blas"]
    numpy_blas = next((lib for lib in libraries if "numpy" in lib["filepath"]), {})
    library = f"{numpy_blas.get('internal_api', 'unknown')} {numpy_blas.get('version', '')}"
    return [
        Diagnosis("blas", library.strip()),
        *report_kernels(str(numpy_blas.get("architecture", "unknown")), has_avx512()),
        Diagnosis("blas threads", str(numpy_blas.get("num_threads", "unknown"))),
    ]


def report_kernels(kernels: str, avx512: bool) -> list[Diagnosis]:
    """Report the kernels of OpenBLAS, and the environment variables that override its choice.

    Args:
        kernels: Name of the kernels in use.
        avx512: Whether the processor has AVX-512, which OpenBLAS uses unless a variable forbids it.
    """
    overrides = [name for name in OPENBLAS_OVERRIDES if os.environ.get(name)]
    advice = ""
    if avx512 and kernels in AVX2_KERNELS:
        remedy = f"unset {' '.join(overrides)}" if overrides else "pip install --upgrade numpy"
        advice = f"AVX2 only, about half the speed of this processor; {remedy}"
    return [
        Diagnosis("blas kernels", kernels, None, advice),
        *(
            Diagnosis(
                name,
                os.environ.get(name) or "not set",
                None,
                f"overrides what OpenBLAS detects; unset {name}" if name in overrides else "",
            )
            for name in OPENBLAS_OVERRIDES
        ),
    ]


def has_avx512() -> bool:
    """Return whether NumPy detects AVX-512 on this processor."""
    import numpy

    simd: Any = numpy.show_config(mode="dicts").get("SIMD Extensions", {})  # type: ignore[union-attr]
    features = [*simd.get("baseline", ()), *simd.get("found", ())]
    return any(feature.startswith("AVX512") or feature == "X86_V4" for feature in features)


def check_backends() -> list[Diagnosis]:
    """Report which built-in backends run here; only NumPy is required."""
    from ldmref.backends import available

    return [
        Diagnosis(f"backend {name}", reason or "runs", not reason if name == "numpy" else None)
        for name, reason in available().items()
    ]


def list_plugins() -> list[Diagnosis]:
    """Report backends, samplers and guidances of other packages, which are not imported."""
    from ldmref import backends
    from ldmref.models import autoencoder_kind, family, text_kind
    from ldmref.samplers import (
        ALIASES,
        GUIDANCES,
        SAMPLERS,
        SPACINGS,
        guidance_registry,
        own_spacing,
        registry,
    )
    from ldmref.support import plugins

    kinds = {
        "backend": (backends.GROUP, backends.BUILT_IN),
        "sampler": (registry.GROUP, {*SAMPLERS, *ALIASES}),
        "schedule": (own_spacing.GROUP, SPACINGS),
        "guidance": (guidance_registry.GROUP, GUIDANCES),
        "family": (family.GROUP, family.BUILT_IN),
        "text encoder": (text_kind.GROUP, text_kind.BUILT_IN),
        "autoencoder": (autoencoder_kind.GROUP, autoencoder_kind.BUILT_IN),
    }
    findings = []
    for kind, (group, built_in) in kinds.items():
        reasons = plugins.list_unusable(group, built_in)
        for name, package in plugins.list_plugins(group).items():
            usable = False if name in reasons else None
            value = f"{kind} of {package}"
            findings.append(Diagnosis(f"plug-in {name}", value, usable, reasons.get(name, "")))
    return findings


def report_graph_cache() -> list[Diagnosis]:
    """Report the folder of compiled networks and its size, if there is one."""
    from ldmref.backends.graph.disk_cache import find_folder, measure

    count, size = measure()
    if not count:
        return []
    return [Diagnosis("graph cache", f"{find_folder()}, {count} files, {size / 1e6:.0f} MB")]


def check_embedded_models() -> list[Diagnosis]:
    """Compare every file of the bundled models with its published digest."""
    from ldmref.io.embedded import EMBEDDED

    return [_check_embedded(name) for name in EMBEDDED]


def _check_embedded(name: str) -> Diagnosis:
    from ldmref.io.embedded import PUBLISHED, embedded_folder, require_published
    from ldmref.io.native import WEIGHTS

    try:
        require_published(embedded_folder(name))
    except LdmrefError as error:
        return Diagnosis(f"model {name}", str(error), False, error.hint)
    return Diagnosis(f"model {name}", f"as published, sha256 {PUBLISHED[name][WEIGHTS]}", True)


def run_self_test() -> list[Diagnosis]:
    """Compare every NumPy operation with the float64 reference, and generate a small image."""
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
        return [Diagnosis("self-test", f"{type(error).__name__}: {error}", False)]
    count = f"{len(comparisons) - len(failures)} of {len(comparisons)} comparisons hold"
    return [
        Diagnosis("self-test numpy", count, not failures, "; ".join(failures[:3])),
        Diagnosis("self-test image", size, True),
    ]
