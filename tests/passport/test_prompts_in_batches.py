"""Ports that run both prompts of a kit in one batch, padded or not, or each half alone."""

from dataclasses import replace

import numpy as np
import pytest
from batched_ports import all_together, one_by_one, run_batches
from kit_runs import run_port

from ldmref.families.z_image import network
from ldmref.models.layers import mask_bias
from ldmref.models.params import flatten, unflatten
from ldmref.passport import check_dump, make, make_kit
from ldmref.passport.original import AS_DIFFUSERS, BATCH, READS_BATCH

PADDED = "qwen-image-2.1"  # the texts of its kit have 56, 60 and 80 tokens
FIRST = "transformer.000"
QUERIES = {
    "z-image": "layers.0.attention.to_q",
    "flux2-klein-4b": "transformer_blocks.0.attn.to_q",
    PADDED: "transformer_blocks.0.attn.to_q",
}


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    """Return kits of three families, without wrong dumps, which take long to find."""
    folder = tmp_path_factory.mktemp("kits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "wrong_dumps", lambda trace, original: ([], {}))
        return {name: make_kit(name, folder / name) for name in QUERIES}


@pytest.fixture(params=QUERIES)
def one(kits, request):
    return kits[request.param]


def scaled(layer):
    """Return a change of a model: a layer of its denoiser is 1 % too large."""

    def steer(model):
        params = flatten(model.params["transformer"])
        params[layer + ".weight"] = 1.01 * params[layer + ".weight"]
        return model.with_params({**model.params, "transformer": unflatten(params)}, model.backend)

    return steer


def change_context(change):
    """Return a change of the arrays of the denoiser alone."""
    return lambda network, arrays: change(arrays) if network.name == "transformer" else arrays


def rows_that(verdict, found):
    return [row for row in verdict.report.rows if row.verdict == found]


def test_both_prompts_in_one_run_pass(one):
    port = run_port(one, "numpy", "float32", together=True)
    assert "transformer.002" not in port.calls
    verdict = check_dump(port, one)
    assert verdict.passed, str(verdict)
    assert verdict.seen > 0.9 * verdict.nodes and not rows_that(verdict, "not judged")
    assert "rows of transformer are judged one by one" in "; ".join(verdict.report.notes)


def test_both_prompts_in_one_run_pass_in_bfloat16(one):
    pytest.importorskip("torch")
    verdict = check_dump(run_port(one, "torch", "bfloat16", together=True), one)
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize("batches", [all_together, one_by_one])
def test_halves_of_guidance_in_any_batches_pass(one, batches):
    verdict = check_dump(run_batches(one, batches, pad=-1), one)
    assert verdict.passed, str(verdict)
    calls = {row.call for row in verdict.report.rows}
    assert calls <= {*one.trace.calls}  # rows have the names of the kit


@pytest.mark.parametrize("batches", [all_together, one_by_one])
def test_a_wrong_layer_is_named_in_any_batches(one, batches):
    layer = QUERIES[one.family]
    verdict = check_dump(run_batches(one, batches, pad=-1, steer=scaled(layer)), one)
    assert verdict.verdict == "differs"
    faults = {(row.layer, row.kind, row.cause) for row in verdict.report.faults}
    assert faults == {(layer, "own", "scaled by 1.01")}
    assert {row.call for row in verdict.report.faults} == {f"transformer.00{i}" for i in range(4)}
    assert all("of the port's transformer" in row.note for row in verdict.report.faults)


@pytest.mark.parametrize("family", ["z-image", "flux2-klein-4b"])
def test_texts_of_other_prompts_are_another_run(kits, family):
    one = kits[family]
    rolled = change_context(lambda x: {**x, "context": np.roll(x["context"], 1, 0)})
    verdict = check_dump(run_batches(one, all_together, pad=-1, change=rolled), one)
    assert [row.kind for row in verdict.report.faults] == ["run"]


@pytest.mark.parametrize("drops", [(), ("schedule",)])
def test_guidance_of_a_batch_is_judged(one, drops):
    port = run_port(one, "numpy", "float32", together=True)
    kept = tuple(entry for entry in port.entries if entry.call.kind not in drops)
    assert check_dump(replace(port, entries=kept), one).passed
    names = [e.outputs["output"] for e in kept if e.call == "guidance.001"]
    tensors = {**port.tensors, **{name: 1.01 * port.tensors[name] for name in names}}
    verdict = check_dump(replace(port, tensors=tensors, entries=kept), one)
    wrong = {(row.call, row.kind) for row in verdict.report.faults}
    both = {("guidance.001", "guidance"), ("guidance.003", "guidance")}
    assert both == {pair for pair in wrong if pair[1] == "guidance"}


STEPS = ("guidance", "sampler")


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("kinds", [("schedule",), ("tokens", "schedule"), ("tokens", *STEPS)])
def test_right_dumps_of_parts_of_the_host_have_no_fault(kits, together, kinds):
    kit = kits["flux2-klein-4b"]
    port = run_port(kit, "numpy", "float32", together=together)
    kept = tuple(entry for entry in port.entries if entry.call.kind not in kinds)
    assert not check_dump(replace(port, entries=kept), kit).report.faults


# -- padding --------------------------------------------------------------------------------------


def test_padding_is_left_out_and_named(kits):
    verdict = check_dump(run_batches(kits[PADDED], all_together, pad=3), kits[PADDED])
    assert verdict.passed, str(verdict)
    notes = verdict.report.notes
    assert "76 tokens of padding in transformer.000 not compared" in notes  # 3 + 23 + 23 + 27
    assert "53 tokens of padding in text_encoder not compared" in notes


def test_padding_that_is_read_is_a_verdict_of_its_own(kits):
    def unmasked(arrays):
        return {k: np.ones_like(x) if k == "mask" else x for k, x in arrays.items()}

    port = run_batches(kits[PADDED], all_together, pad=3, change=change_context(unmasked))
    verdict = check_dump(port, kits[PADDED])
    assert verdict.verdict == "differs"
    faults = verdict.report.faults
    assert {row.kind for row in faults} == {BATCH}
    assert {"transformer_blocks.0.attn.attention~1"} < {row.layer for row in faults}
    assert all(READS_BATCH in row.note and not row.cause for row in faults)


def test_attention_without_its_mask_is_found_in_a_batch(kits, monkeypatch):
    """One text of the kit is filled up to 32 tokens and the other to 64."""
    kit = kits["z-image"]
    with monkeypatch.context() as patch:
        patch.setattr(network, "mask_bias", lambda *x: 0.0 * mask_bias(*x))
        port = run_port(kit, "numpy", "float32", together=True)
    wrong = {row.layer for row in check_dump(port, kit).report.faults}
    attended = {f"{name}.attention.attention" for name in ("context_refiner.0", "layers.0")}
    assert attended <= wrong, wrong


@pytest.mark.parametrize("recorded", [True, False])
def test_the_rule_of_diffusers_for_unequal_texts_is_named(kits, recorded):
    """Images behind the longest text are neither the kit's run nor a fault."""

    def behind(arrays):
        n, length = arrays["context"].shape[:2]
        return {**arrays, "image_start": np.full(n, length, np.float32)}

    port = run_batches(kits[PADDED], all_together, pad=3, change=change_context(behind))
    if not recorded:
        entries = [
            replace(e, inputs={k: x for k, x in e.inputs.items() if k != "image_start"})
            for e in port.entries
        ]
        port = replace(port, entries=tuple(entries))
    verdict = check_dump(port, kits[PADDED])
    assert verdict.verdict == "incomplete" and not verdict.report.faults
    assert all(AS_DIFFUSERS in row.note for row in rows_that(verdict, "not judged"))


def test_a_wrong_layer_is_named_beside_padding(kits):
    layer = QUERIES[PADDED]
    port = run_batches(kits[PADDED], all_together, pad=3, steer=scaled(layer))
    verdict = check_dump(port, kits[PADDED])
    assert {(row.layer, row.cause) for row in verdict.report.faults} == {(layer, "scaled by 1.01")}


# -- rows that are missing, or there again --------------------------------------------------------


def test_a_half_that_is_missing_is_incomplete(kits):
    kit = kits["z-image"]

    def half(rows):
        return [[at] for at in rows if at.row or at.call != FIRST]

    port = run_batches(kit, half, pad=-1)
    verdict = check_dump(port, kit)
    assert verdict.verdict == "incomplete" and verdict.missing == (FIRST,)
    assert not verdict.report.faults


def test_a_text_that_is_encoded_again_is_judged_again(kits):
    kit = kits["z-image"]

    def again(rows):
        return [[*rows, rows[0]]] if rows[0].call == "text_encoder" else all_together(rows)

    port = run_batches(kit, again, pad=-1)
    assert check_dump(port, kit).passed
    name = port.find("text_encoder", "layers.0.mlp").outputs["output"]
    wrong = np.array(port.tensors[name])
    wrong[-1] *= 1.01  # the text that was encoded again
    verdict = check_dump(replace(port, tensors={**port.tensors, name: wrong}), kit)
    assert {(r.call, r.layer) for r in verdict.report.faults if r.kind == "own"} == {
        ("text_encoder", "layers.0.mlp")
    }


def test_a_row_of_another_text_is_named(kits):
    kit = kits["z-image"]

    def one_more(rows):
        return [*all_together(rows), *([rows[:1]] if rows[0].call == "text_encoder" else [])]

    def next_tokens(network, arrays):
        alone = network.name == "text_encoder" and len(arrays["ids"]) == 1
        return {**arrays, "ids": arrays["ids"] + 1} if alone else arrays

    verdict = check_dump(run_batches(kit, one_more, pad=-1, change=next_tokens), kit)
    assert "1 row not of the kit's run: text_encoder~1 row 0" in verdict.report.gaps
    assert verdict.verdict == "incomplete"
