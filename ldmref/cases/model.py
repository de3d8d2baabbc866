"""The manifest of a suite: `cases.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ldmref.cases.described_folder import FolderKind
from ldmref.errors import UsageError, counted, did_you_mean

FORMAT = "ldmref-cases"
VERSION = "2.0"
"""The version of the suites that `make_suite` writes."""
MANIFEST = "cases.json"
DATA = "test_data_set_0"  # as in ONNX's own backend tests
ONNX_PARTS = ("layers", "networks")
VALUE_PARTS = ("schedules", "samplers", "guidance", "tokenizers", "formulas")
TRACES = "traces"
PARTS = (*ONNX_PARTS, *VALUE_PARTS, TRACES)
"""The names of the parts of a suite."""
CODE = "E-CASES"
MAX_BYTES = 2**28
SUITE_FOLDER = FolderKind("suite", MANIFEST, FORMAT, VERSION, CODE, MAX_BYTES)


@dataclass(frozen=True)
class CaseTensor:
    """An array of a case.

    Args:
        name: Its name.
        dtype: "float32", "float64", "int64" or "string".
        shape: Its shape.
        tolerance: For outputs, (atol, rtol) by the dtype in which a program computes: an element
            passes if |got - expected| <= atol + rtol |expected|. {}: equal.

    >>> from ldmref.cases import CaseTensor
    >>> CaseTensor("sigmas", "float64", (11,), {"float32": (1e-6, 1e-6)}).shape
    (11,)
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    tolerance: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class GoldenCase:
    """One case of a suite.

    Args:
        name: Its name, unique in the suite.
        part: One of `PARTS`.
        kind: The operation, the function of ldmref, the sampler, the tokenizer, the mode.
        path: The folder of an ONNX case or a trace, the JSON file of the others; relative to the
            suite.
        inputs: Its inputs, in order.
        outputs: Its outputs, in order.
        attributes: Arguments that are not arrays.
        parameters: Names of the initializers that are parameters.
        basis: The basis of the tolerances: "derived", "calibrated", "propagated" or "exact".

    >>> from ldmref.cases import temporary_suite
    >>> with temporary_suite(["schedules"]) as suite:
    ...     case = suite.select()[0]
    >>> case.part, [output.name for output in case.outputs]
    ('schedules', ['betas'])
    """

    name: str
    part: str
    kind: str
    path: str
    inputs: tuple[CaseTensor, ...]
    outputs: tuple[CaseTensor, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    basis: str = "exact"


@dataclass(frozen=True)
class Suite:
    """The cases of a folder.

    Args:
        folder: The folder.
        version: Version of the suite.
        cases: All cases by name.
        digests: SHA-256 of each file, by path.
        families: The families whose networks it has; (): all.

    >>> from ldmref.cases import temporary_suite
    >>> with temporary_suite(["schedules"]) as suite:
    ...     suite.label, len(suite.select(["*karras*"])) > 0
    ('ldmref-cases 2.0', True)
    """

    folder: Path
    version: str
    cases: Mapping[str, GoldenCase] = field(repr=False)
    digests: Mapping[str, str] = field(repr=False)
    families: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Return "ldmref-cases 2.0", with the families unless the suite has all."""
        some = f" of {', '.join(self.families)}" if self.families else ""
        return f"{FORMAT} {self.version}{some}"

    @property
    def digest(self) -> str:
        """SHA-256 of the list of all files with their digests."""
        return digest_of(self.digests)

    def select(
        self, patterns: Iterable[str] = (), parts: Iterable[str] = PARTS, kinds: Iterable[str] = ()
    ) -> list[GoldenCase]:
        """Return the cases of these parts and kinds whose name matches one of the patterns.

        Args:
            patterns: Names, in which * matches any text; (): all.
            parts: Names in `PARTS`.
            kinds: Kinds ("conv2d"); (): all.

        Raises:
            UsageError: There is none.
        """
        patterns = tuple(patterns)
        parts = tuple(parts)
        kinds = tuple(kinds)
        for kind in set(kinds) - {case.kind for case in self.cases.values()}:
            hint = did_you_mean(kind, {case.kind for case in self.cases.values()})
            raise UsageError(f"no case is of kind {kind!r}", code=CODE, hint=hint)
        found = [
            case
            for case in self.cases.values()
            if (not patterns or any(fnmatchcase(case.name, pattern) for pattern in patterns))
            and (not kinds or case.kind in kinds)
            and case.part in parts
        ]
        if not found:
            named = " or ".join(map(repr, patterns)) or f"{', '.join(kinds or parts)}"
            hint = "ldmref cases run --list prints all names; * matches any text"
            raise UsageError(f"no case matches {named}", code=CODE, hint=hint)
        return found

    def check_files(self, cases: Iterable[GoldenCase]) -> None:
        """Compare the digests of the files of these cases with the manifest.

        Args:
            cases: The cases whose files are compared.

        Raises:
            CorruptModelError: A file is missing or was changed.
        """
        paths = {case.path for case in cases}
        for path, digest in self.digests.items():
            if path in paths or path.rpartition("/")[0].removesuffix(f"/{DATA}") in paths:
                SUITE_FOLDER.check_file(self.folder, path, digest)


def digest_of(digests: Mapping[str, str]) -> str:
    """Return the SHA-256 of lines "digest  path", sorted by path, as sha256sum prints them."""
    lines = "".join(f"{digests[path]}  {path}\n" for path in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def manifest_text(suite: Suite, program: str) -> str:
    """Return the manifest of a suite as JSON."""
    counts = {
        part: sum(case.part == part for case in suite.cases.values())
        for part in PARTS
        if any(case.part == part for case in suite.cases.values())
    }
    cases = [json.dumps(_to_row(case), ensure_ascii=False) for case in suite.cases.values()]
    head = {
        "format": FORMAT,
        "version": suite.version,
        "program": program,
        "families": list(suite.families),
        "count": len(suite.cases),
        "counts": counts,
        "digest": suite.digest,
        "digests": dict(suite.digests),
    }
    lines = ",\n  ".join(cases)
    return json.dumps(head, indent=1)[:-2] + f',\n "cases": [\n  {lines}\n ]\n}}\n'


def _to_row(case: GoldenCase) -> dict[str, Any]:
    """Return a case as JSON, without fields that are empty."""
    row = asdict(case)
    for side in ("inputs", "outputs"):
        row[side] = [
            {key: value for key, value in tensor.items() if key != "tolerance" or value}
            for tensor in row[side]
        ]
    return {key: value for key, value in row.items() if value or key == "inputs"}


def read_suite(folder: Path) -> Suite:
    """Read the manifest of a folder that `ldmref cases make` wrote.

    Args:
        folder: The folder.

    Returns:
        The suite; its files are read when they are used.

    Raises:
        InputError: The folder has no manifest.
        CorruptModelError: The manifest is damaged, or has another version.

    >>> from ldmref.cases import read_suite, temporary_suite
    >>> with temporary_suite(["schedules"]) as suite:
    ...     read_suite(suite.folder).version
    '2.0'
    """
    hint = f"ldmref cases make -o {folder.name}"
    return SUITE_FOLDER.read(folder, hint, _parse)


def _parse(folder: Path, data: Mapping[str, Any]) -> Suite:
    cases = {row["name"]: _read_case(row) for row in data["cases"]}
    digests = {str(k): str(v) for k, v in data["digests"].items()}
    return Suite(folder, str(data["version"]), cases, digests, tuple(data.get("families", ())))


def _read_case(row: Mapping[str, Any]) -> GoldenCase:
    if row["part"] not in PARTS or _escapes(row["path"]):
        raise ValueError(f"part {row['part']!r}, path {row['path']!r}")
    return GoldenCase(
        row["name"],
        row["part"],
        row["kind"],
        row["path"],
        tuple(_read_tensor(x) for x in row.get("inputs", ())),
        tuple(_read_tensor(x) for x in row["outputs"]),
        row.get("attributes", {}),
        tuple(row.get("parameters", ())),
        row.get("basis", "exact"),
    )


def _escapes(path: str) -> bool:
    """Return whether a path leads out of the suite's folder."""
    return path.startswith(("/", "\\")) or ".." in path.replace("\\", "/").split("/") or ":" in path


def _read_tensor(row: Mapping[str, Any]) -> CaseTensor:
    tolerance = {
        dtype: (float(pair[0]), float(pair[1])) for dtype, pair in row.get("tolerance", {}).items()
    }
    return CaseTensor(row["name"], row["dtype"], tuple(row["shape"]), tolerance)


def describe_counts(cases: Iterable[GoldenCase]) -> str:
    """Return the number of cases of each part, "266 layers, 36 networks"."""
    cases = tuple(cases)
    counts = {part: sum(case.part == part for case in cases) for part in PARTS}
    return ", ".join(
        f"{n} {part}" if n != 1 else counted(1, part.rstrip("s")) for part, n in counts.items() if n
    )
