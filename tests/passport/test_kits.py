"""A kit: its files, and what it says of right ports, wrong ones and other runs."""

import json
import shutil

import numpy as np
import pytest
from kit_runs import run_port, without

import ldmref
from ldmref import modes
from ldmref.cases.golden_models import (
    golden_config,
    golden_model,
    make_tokenizers,
    vocabularies_of,
)
from ldmref.errors import CorruptModelError, InputError, OutputError, UsageError
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.models.family import family_of, with_text_length
from ldmref.models.params import flatten
from ldmref.passport import check_dump, kit_families, make_kit, read_kit, write_badge
from ldmref.passport.cached import cached_step
from ldmref.passport.check import OTHER_RUN
from ldmref.passport.make import distinct_families
from ldmref.passport.recorded import kit_trace, record_kit
from ldmref.ports.port import find_port
from ldmref.trace import load_trace

ROUNDINGS = 512 * 2.0**-52  # of sums in another order, through two blocks


@pytest.fixture(scope="module")
def port(kit):
    return run_port(kit, "numpy", "float32")


def test_a_kit_is_read_as_it_was_written(kit):
    found = read_kit(kit.folder)
    assert (found.family, found.version, found.digest) == ("flux-dev", "3.0", kit.digest)
    assert found.wrong == kit.wrong
    found.check_files()


def test_the_denoiser_has_the_names_of_its_makers(kit):
    names = set(TensorFile(kit.folder / "checkpoint/transformer.safetensors").shapes)
    assert {"img_in.weight", "double_blocks.0.img_attn.qkv.weight"} < names


def test_the_checkpoint_is_the_model_that_was_run(kit):
    model = kit.model()
    right = golden_model("flux-dev")
    for network, params in right.params.items():
        read = flatten(model.params[network])
        for name, x in flatten(params).items():
            np.testing.assert_array_equal(read[name], x, name)


def test_the_kits_own_run_passes(kit):
    verdict = check_dump(kit.trace, kit)
    assert verdict.passed, str(verdict)
    assert verdict.seen == verdict.nodes == len(kit.trace.entries)


def test_a_right_port_passes(kit, port):
    verdict = check_dump(port, kit)
    assert verdict.passed, str(verdict)
    assert verdict.seen > 0.8 * verdict.nodes and verdict.report.dtype == "float32"
    assert str(verdict).startswith(f"passes: {verdict.seen} of {verdict.nodes} nodes in float32")


def test_noise_as_tokens_is_the_noise(kit):
    noise = np.asarray(kit.trace.tensors["noise"])
    tokens = np.asarray(kit.trace.tensors["noise.tokens"])
    unpack = find_port("flux").unpack
    rows, columns = (n // 2 for n in noise.shape[2:])
    assert unpack is not None and rows != columns
    np.testing.assert_array_equal(unpack(tokens, rows, columns), noise)


def test_prompts_are_of_unequal_length_and_one_after_the_other(kit):
    lengths = [np.asarray(kit.trace.tensors[f"tokens{again}//output.ids"]) for again in ("", "~1")]
    assert lengths[0].shape == lengths[1].shape and not np.array_equal(*lengths)
    request = kit.trace.manifest["params"]
    first, second = request["prompt"]
    assert len(first.split()) != len(second.split())
    assert kit.trace.find("transformer.003") is not None


def test_floors_are_of_every_output_and_grow_with_the_roundings(kit):
    names = {name for name in kit.trace.tensors if "/output" in name}
    floors = kit.floors
    for dtype, least in (("float32", 1e-8), ("float16", 1e-4), ("bfloat16", 1e-3)):
        values = [x for name, x in floors[dtype].items() if x]
        assert floors[dtype].keys() <= names
        assert least < np.median(values) < 1e4 * least
    assert len(floors["float32"]) > 0.9 * len(names)


def test_schedules_end_at_zero_and_shift_with_the_size(kit):
    rows = json.loads((kit.folder / "schedules.json").read_text())
    assert {row["steps"] for row in rows} == {4, 8, 20, 50}
    assert all(row["sigmas"][-1] == 0.0 for row in rows)
    four = {row["width"]: row["sigmas"][1] for row in rows if row["steps"] == 4}
    assert four[1024] > four[512]


def test_the_encoder_is_recorded_as_the_decoder_is(kit):
    for call in ("vae.encode", "vae.decode"):
        layers = {entry.layer for entry in kit.trace.of_call(call)}
        assert "" in layers and len(layers) > 10


def test_wrong_dumps_fail_with_their_cause(kit):
    assert len(kit.wrong) >= 40
    for dump in kit.wrong[::4]:
        verdict = check_dump(load_trace(kit.folder / dump.path), kit)
        causes = {row.name: row.cause for row in verdict.report.faults}
        assert verdict.verdict == "differs"
        assert causes[dump.node] == dump.cause
        assert dump.cause.startswith(dump.fault)


def test_another_run_is_not_the_kits(kit, port):
    noise = np.asarray(kit.trace.tensors["noise"])[::-1].copy()
    other = run_port(kit, "numpy", "float32", noise)
    verdict = check_dump(other, kit)
    assert verdict.verdict == "differs"
    (row,) = verdict.report.faults
    assert (row.kind, row.cause) == (OTHER_RUN, "")
    assert row.name == "transformer.000/x_embedder"
    assert row.error > row.allowed


def test_a_dump_without_a_call_is_incomplete(kit, port):
    verdict = check_dump(without(port, "transformer.001"), kit)
    assert verdict.verdict == "incomplete" and verdict.missing == ("transformer.001",)
    assert "lacks transformer.001" in str(verdict)


def test_a_run_of_another_size_does_not_pass(kit):
    """Every layer is right; the shift of the schedule, and with it the times, are not the kit's."""
    wider = {"width": kit.request["width"] + 8}
    model = kit.model()
    with ldmref.recording(model) as run:
        modes.txt2img(model, **{**kit.request, **wider})
    verdict = check_dump(run.trace, kit)
    assert {row.kind for row in verdict.report.faults} == {OTHER_RUN}
    assert "vae.decode" in verdict.missing and not verdict.passed


def test_outputs_alone_are_judged_by_the_floors(kit, port):
    names = ("vae.decode//output", "transformer.000//output")
    outputs = {name: np.asarray(port.tensors[name]) for name in names}
    right = check_dump(_dump(outputs), kit)
    assert not right.report.faults
    outputs["vae.decode//output"] = 1.001 * outputs["vae.decode//output"]
    wrong = check_dump(_dump(outputs), kit)
    assert [row.name for row in wrong.report.faults] == ["vae.decode"]


def _dump(tensors):
    from ldmref.trace import build_trace

    return build_trace(tensors)


def test_the_badge_names_version_and_hash(kit, port, tmp_path):
    verdict = check_dump(port, kit)
    files = write_badge(verdict, tmp_path / "badge.svg")
    assert [file.name for file in files] == ["badge.json", "badge.svg"]
    row = json.loads(files[0].read_text())
    assert row.keys() == {"schemaVersion", "label", "message", "color"}  # all that shields.io takes
    assert row["label"] == f"ldmref passport flux-dev 3.0 ({kit.digest[:12]})"
    assert row["message"].startswith("passes: ")
    assert kit.digest in files[1].read_text()
    with pytest.raises(OutputError, match="exists"):
        write_badge(verdict, tmp_path / "badge")


def test_a_changed_kit_is_refused(kit, port, tmp_path):
    folder = tmp_path / "kit"
    shutil.copytree(kit.folder, folder)
    with open(folder / "floors.json", "a") as file:
        file.write(" ")
    with pytest.raises(CorruptModelError, match=r"floors\.json is not the file"):
        check_dump(port, read_kit(folder))


def test_a_step_from_kept_keys_and_values_is_the_full_step():
    run = record_kit("qwen-image-2.1")
    cached = cached_step(run)
    full = run.exact.tensors["transformer.001//output"]
    assert {"keys.0", "values.0", "keys.1", "values.1"} < cached.keys()
    np.testing.assert_allclose(cached["output"], full, rtol=0, atol=ROUNDINGS * np.abs(full).max())
    assert not np.array_equal(full, run.exact.tensors["transformer.000//output"])
    assert cached_step(record_kit("flux-dev")) == {}


def test_damaged_manifests_are_refused(kit, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no kit\.json"):
        read_kit(tmp_path / "empty")
    manifest = json.loads((kit.folder / "kit.json").read_text())
    for change, message in (
        ({"format": "other"}, "is not a manifest"),
        ({"version": "4.0"}, "has version 4.0"),
        ({"digests": {"../x": "0"}}, "is damaged"),
        ({"wrong": [{"name": "x"}]}, "is damaged"),
        ({"digests": None}, "is damaged"),
    ):
        (tmp_path / "kit.json").write_text(json.dumps(manifest | change))
        with pytest.raises(CorruptModelError, match=message):
            read_kit(tmp_path)


def test_kits_of_the_first_version_are_read(kit, tmp_path):
    manifest = json.loads((kit.folder / "kit.json").read_text())
    (tmp_path / "kit.json").write_text(json.dumps(manifest | {"version": "1.0"}))
    assert read_kit(tmp_path).version == "1.0"


def test_other_folders_are_not_replaced(kit, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no kit"):
        make_kit("flux-dev", tmp_path)
    with pytest.raises(OutputError, match="holds a kit"):
        make_kit("flux-dev", kit.folder)


def test_a_kit_may_leave_out_the_wrong_dumps_alone(kit, tmp_path):
    made = make_kit("flux-dev", tmp_path / "kit", wrong=False)
    assert made.wrong == [] and kit.wrong
    assert read_kit(made.folder).wrong == made.wrong
    left = {name: x for name, x in kit.digests.items() if not name.startswith("wrong/")}
    assert made.digests.keys() == left.keys()
    assert {name for name in left if made.digests[name] != left[name]} == {"README.txt"}
    assert "wrong/" not in (made.folder / "README.txt").read_text("utf-8")


def test_unknown_families_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no kit of 'flux-dex'") as refusal:
        make_kit("flux-dex", tmp_path / "kit")
    assert "flux-dev" in refusal.value.hint


def test_each_family_has_a_kit():
    families = {family_of(golden_config(name)).name for name in distinct_families()}
    assert families == {family_of(golden_config(name)).name for name in kit_families()}
    assert len(distinct_families()) == 14


@pytest.mark.parametrize("family", distinct_families())
def test_prompts_of_a_kit_differ_from_each_other_and_from_the_negative_one(family):
    """They do so as tokens, behind their template, of which nothing is cut."""
    run = kit_trace(family)
    length = run.params.get("max_sequence_length")
    config = golden_config(family)
    config = config if length is None else with_text_length(config, length)
    texts = [*run.params["prompt"], run.params["negative_prompt"]]
    for tokenizer in make_tokenizers(config, vocabularies_of(family)):
        tokens = tokenizer.tokenize(texts)
        rows = [tuple(x[x_mask != 0]) for x, x_mask in zip(tokens.ids, tokens.mask, strict=True)]
        assert len(set(rows)) == 3 and len(rows[0]) != len(rows[1]), rows
        assert tokens.truncated == [0, 0, 0]
