"""The files of a suite: determinism, the manifest, ONNX's layout, and damaged files."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ldmref.cases import make_suite, read_suite
from ldmref.cases.families import FAMILIES, networks
from ldmref.cases.model import DATA, VALUE_PARTS
from ldmref.cases.parameters import random_array, random_parameters
from ldmref.cases.values import from_json, to_json
from ldmref.errors import CorruptModelError, InputError, OutputError, UsageError
from ldmref.models.params import flatten
from ldmref.samplers.registry import SAMPLERS

FEW = (("layers", "networks", "guidance"), ("taesd", "ldm-semantic"))


def test_a_suite_is_made_twice_with_equal_bytes(tmp_path):
    first = make_suite(tmp_path / "a", *FEW)
    second = make_suite(tmp_path / "b", *FEW)
    assert first.digest == second.digest and first.digests == second.digests
    a = tmp_path / "a"
    files = [path.relative_to(a) for path in a.rglob("*") if path.is_file()]
    same = [(a / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files]
    assert len(files) > 100 and all(same)


def test_random_arrays_are_made_of_32_bit_integers():
    """So their bits do not depend on a library: SHA-256, Philox, and IEEE arithmetic."""
    key = int.from_bytes(hashlib.sha256(b"ldmref-cases/x").digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(2)
    words = np.stack([raw & 0xFFFFFFFF, raw >> 32], axis=1).reshape(-1)
    uniform = (words >> 8).astype(np.float32) / np.float32(2**24)
    expected = np.float32(np.sqrt(3.0)) * (uniform * np.float32(2.0) - np.float32(1.0))
    assert random_array("x", (4,)).tobytes() == expected.tobytes()
    many = random_array("many", (10_000,), 2.0)
    assert abs(many.std() - 2.0) < 0.05 and abs(many.mean()) < 0.05


def test_norms_and_biases_are_random():
    tree = {"norm": {"weight": (50,), "bias": (50,)}, "conv": {"weight": (5, 2, 3, 3)}}
    params = flatten(random_parameters("x", tree))
    assert params["norm.weight"].std() > 0.1 and abs(params["norm.weight"].mean() - 1.0) < 0.2
    assert params["norm.bias"].std() > 0.1 and abs(params["norm.bias"].mean()) < 0.2


def test_the_manifest_describes_the_files(small):
    suite = read_suite(small.folder)
    assert suite == small
    manifest = json.loads((small.folder / "cases.json").read_text())
    assert manifest["format"] == "ldmref-cases" and manifest["version"] == "2.0"
    assert manifest["count"] == len(suite.cases) == sum(manifest["counts"].values())
    for path, digest in manifest["digests"].items():
        assert hashlib.sha256((small.folder / path).read_bytes()).hexdigest() == digest
    written = {str(p.relative_to(small.folder)) for p in small.folder.rglob("*") if p.is_file()}
    assert written == {*manifest["digests"], "cases.json"}


def test_cases_have_onnx_layout_and_pass_its_checker(small):
    onnx = pytest.importorskip("onnx")
    for case in small.cases.values():
        folder = small.folder / case.path
        model = onnx.load(folder / "model.onnx")
        onnx.checker.check_model(model, full_check=True)
        inputs = [x.name for x in model.graph.input]
        assert inputs == [x.name for x in case.inputs]
        assert [x.name for x in model.graph.output] == [x.name for x in case.outputs]
        names = {x.name for x in model.graph.initializer}
        assert set(case.parameters) <= names
        data = sorted(path.name for path in (folder / DATA).iterdir())
        count = len(case.inputs), len(case.outputs)
        assert len(data) == sum(count) and f"output_{count[1] - 1}.pb" in data


def test_onnx_finds_the_cases_as_backend_tests(small):
    runner = pytest.importorskip("onnx.backend.test.loader")
    found = runner.load_model_tests(str(small.folder), "layers")
    assert {test.name for test in found} == {
        f"test_{name}" if name.startswith("test_") else name
        for name, case in small.cases.items()
        if case.part == "layers"
    }


def test_layers_have_the_parameters_and_attributes_of_their_definition(small):
    name = "sdxl.unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2"
    case = small.cases[name]
    assert case.kind == "attention" and case.attributes == {"num_heads": 2}
    assert [x.name for x in case.inputs] == ["input", "context"]
    assert "to_out.0.bias" in case.parameters and "to_q.weight" in case.parameters
    self_attention = small.cases[name.replace("attn2", "attn1")]
    assert [x.name for x in self_attention.inputs] == ["input"]
    assert self_attention.attributes["context"] == "input"


# To others, when they are tiny
EQUAL_WHEN_TINY = {
    "emoji-128",
    "sd2-v",
    "z-image-turbo",
    "flux2-klein-base-4b",
    "krea-2-turbo",
    "qwen-image-2.1-turbo",
}


def test_every_family_and_every_sampler_is_there(values):
    nets = [f"{net.name}." for net in networks()]
    missing = {name for name in FAMILIES if not any(net.startswith(f"{name}.") for net in nets)}
    assert missing <= EQUAL_WHEN_TINY
    names = {case.kind for case in values.cases.values() if case.part == "samplers"}
    assert {name for name, sampler in SAMPLERS.items() if not sampler.adaptive} == names


def test_formulas_cover_most_of_the_mathematics(values):
    kinds = {case.kind for case in values.cases.values() if case.part == "formulas"}
    assert len(kinds) > 120 and {"q_posterior", "x0_from_v", "eps_from_v", "snr"} <= kinds


def test_values_keep_every_bit_of_float64():
    numbers = np.asarray([[0.1, 1e300, 5e-324], [np.inf, -np.inf, np.nan]])
    text = json.dumps(to_json(numbers), allow_nan=False)
    again = from_json(json.loads(text))
    assert np.array_equal(numbers, again, equal_nan=True) and again.shape == (2, 3)
    assert from_json([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert from_json(0.5).shape == ()
    for wrong in ("text", [[1], [2, 3]], ["a", 1], None):
        with pytest.raises(ValueError):
            from_json(wrong)


def test_a_changed_file_is_refused(small, tmp_path):
    from shutil import copytree

    from ldmref.cases.suite_run import open_runtime, run_cases

    copytree(small.folder, tmp_path / "copy")
    suite = read_suite(tmp_path / "copy")
    case = next(iter(suite.cases.values()))
    path = tmp_path / "copy" / case.path / DATA / "output_0.pb"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(CorruptModelError, match=r"output_0\.pb is not the file"):
        list(run_cases(suite, open_runtime("ldmref", "numpy"), [case]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is not a manifest"),
        ({"version": "3.0"}, "has version 3.0"),
        ({"cases": [{"name": "x"}]}, "damaged"),
        ({"cases": 3}, "damaged"),
        ({"cases": [{"name": "x", "part": "layers", "path": "../x", "outputs": []}]}, "damaged"),
        ({"cases": [{"name": "x", "part": "layers", "path": "/x", "outputs": []}]}, "damaged"),
    ],
)
def test_damaged_manifests_are_refused(tmp_path, change, message):
    manifest = {"format": "ldmref-cases", "version": "2.0", "cases": [], "digests": {}}
    (tmp_path / "cases.json").write_text(json.dumps(manifest | change))
    with pytest.raises(CorruptModelError, match=message):
        read_suite(tmp_path)


def test_folders_are_not_overwritten(tmp_path):
    with pytest.raises(InputError, match=r"has no cases\.json"):
        read_suite(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        read_suite(tmp_path / "nothing")
    (tmp_path / "text.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        make_suite(tmp_path, ("guidance",), overwrite=True)
    assert (tmp_path / "text.txt").read_text() == "mine"
    make_suite(tmp_path / "new", ("guidance",))
    with pytest.raises(OutputError, match="holds a suite"):
        make_suite(tmp_path / "new", ("guidance",))
    again = make_suite(tmp_path / "new", ("tokenizers",), overwrite=True)
    assert {case.part for case in again.cases.values()} == {"tokenizers"}
    with pytest.raises(UsageError, match="unknown family"):
        make_suite(tmp_path / "other", families=("sd51",))


@pytest.mark.slow
def test_the_whole_suite_is_made_twice_with_equal_bytes(tmp_path):
    first = make_suite(tmp_path / "a")
    assert first.digest == make_suite(tmp_path / "b").digest
    assert len(first.cases) > 600
    parts = Counter(case.part for case in first.cases.values())
    assert parts.keys() == {"layers", "networks", "traces", *VALUE_PARTS}
    page = (Path(__file__).parents[2] / "docs/cases.md").read_text()
    for part, count in parts.items():
        assert f"| `{part}` | {count} |" in page, part
    both = parts["layers"] + parts["networks"] + parts["traces"]
    assert f"2.0, {both} of {both} (layers, networks, traces)" in page
