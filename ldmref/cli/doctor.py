"""`ldmref doctor`: is everything here that is needed, and does it compute what it should?"""

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
    "scipy": "1.11",
    "pillow": "12.3",
    "safetensors": "0.5",
    "tokenizers": "0.21",
    "array-api-compat": "1.12",
    "threadpoolctl": "3.1",
    "click": "8.1",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report; `ok` is None where there is nothing to judge."""

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
    failed = [f.topic for f in findings if f.topic.startswith("self-test") and f.ok is False]
    if failed:
        raise VerifyError(f"failed: {', '.join(failed)}", code="E-SELF-TEST")


COMMANDS = (doctor,)


def versions() -> list[Finding]:
    """Python, ldmref, and every dependency against the oldest version that will do."""
    found = [
        Finding("python", platform.python_version()),
        Finding("ldmref", ldmref.__version__),
        Finding(
            "machine", f"{platform.machine()} {platform.system()}, {os.cpu_count()} processors"
        ),
    ]
    for name, least in MINIMUM.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.append(Finding(name, "missing", False, f"pip install '{name}>={least}'"))
            continue
        ok = numbers(version) >= numbers(least)
        found.append(Finding(name, version, ok, "" if ok else f"needs at least {least}"))
    return found


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    >>> numbers("2.4.6rc1")
    (2, 4, 6)
    """
    found = re.match(r"[\d.]*\d", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def blas() -> list[Finding]:
    """Which matrix product NumPy uses, with which kernels and how many threads."""
    import numpy
    from threadpoolctl import threadpool_info

    libraries = [lib for lib in threadpool_info() if lib["user_api"] == "blas"]
    own = next((lib for lib in libraries if "numpy" in lib["filepath"]), {})
    kernels = str(own.get("architecture", "unknown"))
    simd: Any = numpy.show_config(mode="dicts").get("SIMD Extensions", {})  # type: ignore[union-attr]
    units = [*simd.get("baseline", ()), *simd.get("found", ())]
    wide = any(unit.startswith("AVX512") or unit == "X86_V4" for unit in units)
    chosen = os.environ.get("OPENBLAS_CORETYPE", "")
    slow = wide and kernels in ("Haswell", "Zen")
    advice = (
        "half the speed of this processor; before Python starts: export OPENBLAS_CORETYPE=SkylakeX"
    )
    return [
        Finding("blas", f"{own.get('internal_api', 'unknown')} {own.get('version', '')}".strip()),
        Finding("blas kernels", kernels, None, advice if slow else ""),
        Finding("blas threads", str(own.get("num_threads", "unknown"))),
        Finding("OPENBLAS_CORETYPE", chosen or "not set"),
    ]


def backends() -> list[Finding]:
    """Whether each backend runs here; only NumPy has to."""
    from ldmref.backends import available

    return [
        Finding(f"backend {name}", reason or "runs", not reason if name == "numpy" else None)
        for name, reason in available().items()
    ]


def embedded_model() -> Finding:
    from ldmref.io.locate import find_model
    from ldmref.io.tensors.safetensors import TensorFile

    try:
        file = TensorFile(find_model("emoji") / "model.safetensors")
    except LdmrefError as error:
        return Finding("model emoji", str(error), False, "install ldmref again")
    return Finding("model emoji", f"{len(file)} tensors, sha256 {file.sha256()}", True)


def self_test() -> list[Finding]:
    """Every NumPy operation against the float64 reference, and one small picture."""
    from ldmref import modes
    from ldmref.backends import get_backend
    from ldmref.testing import check_backend

    try:
        ops = get_backend("numpy", "cpu", "float32")
        compared = check_backend(ops)
        bad = [str(finding) for finding in compared if not finding.ok]
        picture = modes.txt2img(ldmref.random_model("tiny", backend=ops), "red heart", seed=0)
        drawn = f"{picture[0].width}x{picture[0].height} with {picture.params['steps']} steps"
    except Exception as error:  # whatever breaks is what the report is for
        return [Finding("self-test", f"{type(error).__name__}: {error}", False)]
    count = f"{len(compared) - len(bad)} of {len(compared)} comparisons hold"
    return [
        Finding("self-test numpy", count, not bad, "; ".join(bad[:3])),
        Finding("self-test picture", drawn, True),
    ]
