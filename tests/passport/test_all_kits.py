"""Kits of all families: equal bytes in clean processes, and what passes and fails each."""

import subprocess
import sys

import pytest
from kit_runs import run_port

from ldmref.passport import check_dump, read_kit
from ldmref.passport.make import distinct_families
from ldmref.trace import load_trace

MOST = 52 * 2**20  # bytes of all kits
BACKENDS = ("numpy", "torch", "onnx")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return two folders of kits that two processes made."""
    made = [tmp_path_factory.mktemp("kits") / "all" for _ in range(2)]
    for folder in made:
        command = [sys.executable, "-m", "ldmref", "passport", "make", "--all", "-o", str(folder)]
        subprocess.run(command, check=True)
    return made


@pytest.fixture(params=distinct_families())
def one(request, folders):
    return read_kit(folders[0] / request.param)


def test_kits_are_the_same_bytes_and_small(folders):
    contents = [
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in folders
    ]
    assert contents[0] == contents[1]
    assert {path.parts[0] for path in contents[0]} == set(distinct_families())
    assert sum(map(len, contents[0].values())) <= MOST


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_ldmref_on_torch_passes_in_every_format(one, dtype):
    pytest.importorskip("torch")
    verdict = check_dump(run_port(one, "torch", dtype), one)
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ldmref_passes_on_every_backend(one, backend):
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    verdict = check_dump(run_port(one, backend, "float32"), one)
    assert verdict.passed, str(verdict)


def test_every_wrong_dump_fails_with_its_cause(one):
    assert len(one.wrong) >= 30
    for dump in one.wrong:
        verdict = check_dump(load_trace(one.folder / dump.path), one)
        causes = {row.name: row.cause for row in verdict.report.faults}
        assert verdict.verdict == "differs", dump.name
        assert causes.get(dump.node, "").startswith(dump.fault), dump.name
