"""Which of a run's encoded images are its references, and which of their arrays are compared."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, normal
from test_reference_units import MODEL, TOKENS, encoded, flux2, means_of, scale_of

from ldmref.locate.pipeline import references
from ldmref.locate.pipeline.references import judge_references

POSITIONS = "reference_positions"
METHOD = references.REFERENCES


def context_of_run(arrays, means, methods=None, params=None, dtype="float32"):
    """Return the context of a run of diffusers if methods of its pipeline are given."""
    calls = {f"vae.encode.{i:03}": {"output.mean": z} for i, z in enumerate(means)}
    attributes = {}
    for i, method in enumerate(methods or ()):
        calls[f"posterior.{i:03}"] = {"output": np.zeros(1)}
        attributes[f"posterior.{i:03}"] = {"encoder": f"vae.encode.{i:03}", "for": method}
    for i, found in enumerate(arrays):
        calls[f"transformer.{i:03}"] = {f"input.{name}": x for name, x in found.items()}
    if methods is not None:
        calls["sampler.000"] = {"input.model_output": np.zeros(1)}
    context = context_of(calls, MODEL, attributes=attributes, params=params or {}, dtype=dtype)
    return replace(context, model=flux2())


def rows_of(context):
    return [(row.call, row.kind, row.verdict, row.cause) for row in judge_references(context)]


def right_arrays(means):
    return encoded([scale_of().normalize(z) for z in means])


# -- which images ---------------------------------------------------------------------------------


def test_references_of_diffusers_are_what_one_method_encodes():
    means = means_of(3)
    methods = ["prepare_latents", METHOD, METHOD]
    context = context_of_run([right_arrays(means[1:])], means, methods)
    assert [row[2] for row in rows_of(context)] == ["equal"] * 2
    single = context_of_run([right_arrays(means[:1])], means[:2], ["prepare_latents", METHOD])
    verdicts = {kind: verdict for _, kind, verdict, _ in rows_of(single)}
    assert verdicts["reference tokens"] == "differs"


def test_without_methods_all_images_of_diffusers_are_references():
    means = means_of(2)
    for methods in ([], ["prepare_latents"] * 2):
        context = context_of_run([right_arrays(means)], means, methods)
        assert [row[2] for row in rows_of(context)] == ["equal"] * 2


@pytest.mark.parametrize("params", [{"references": []}, {"references": "x"}, {"references": None}])
def test_references_of_other_programs_need_their_digests(params):
    means = means_of(2)
    context = context_of_run([right_arrays(means)], means, params=params)
    assert rows_of(context) == []
    assert [*references._encoders(context)] == [[]]
    known = context_of_run([right_arrays(means)], means, params={"references": ["x", "y"]})
    assert [[x.call for x in part] for part in references._encoders(known)] == [
        ["vae.encode.000", "vae.encode.001"]
    ]


def test_an_image_of_a_batch_is_encoded_once():
    means = means_of(1)
    batch = [np.concatenate([means[0], normal(9, *means[0].shape)])]
    context = context_of_run([right_arrays(means)], batch, params={"references": ["x"]})
    assert [row[2] for row in rows_of(context)] == ["equal"] * 2


# -- which arrays ---------------------------------------------------------------------------------


def test_arrays_that_cannot_be_compared_do_not_hide_others():
    means = means_of(1)
    right = right_arrays(means)
    params = {"references": ["x"]}

    def kinds(*arrays):
        return [row[:3] for row in rows_of(context_of_run(arrays, means, params=params))]

    tokens, positions = "reference tokens", "reference positions"
    first, second = "transformer.000", "transformer.001"
    assert kinds({POSITIONS: right[POSITIONS]}) == [(first, positions, "equal")]
    wide = np.concatenate([right[TOKENS]] * 2, axis=1)
    assert kinds({**right, TOKENS: wide}) == [(first, positions, "equal")]
    moved = {**right, POSITIONS: right[POSITIONS] + 1.0}
    assert kinds(right, moved) == [
        (first, tokens, "equal"),
        (first, positions, "equal"),
        (second, positions, "differs"),
    ]


def test_arrays_that_are_not_known_have_a_reason_and_those_compared_are_marked():
    means = means_of(1)
    right = right_arrays(means)
    params = {"references": ["x"]}
    wide = np.concatenate([right[TOKENS]] * 2, axis=1)
    context = context_of_run([{**right, TOKENS: wide}, right], means, params=params)
    rows_of(context)
    first, second = context.calls("transformer")
    assert context.coverage.reasons.keys() >= {(first.name, "input", TOKENS)}
    found = [context.coverage.has(x, name) for x in (first, second) for name in (TOKENS, POSITIONS)]
    assert found == [False, True, True, True]


def test_rows_say_what_leads_to_the_references():
    means = means_of(1)
    context = context_of_run([right_arrays(means)], means, params={"references": ["x"]})
    for row in judge_references(context):
        assert "references" in row.segment
        assert row.allowed == max(1e-6, 16.0 * 2.0**-23)
    exact = context_of_run([right_arrays(means)], means, params={"references": ["x"]},
                           dtype="float64")  # fmt: skip
    assert {row.allowed for row in judge_references(exact)} == {1e-6}


def test_the_family_encodes_images_of_the_sizes_of_the_latents():
    asked = []

    def encode(model, images, size):
        asked.append((model.config, model.backend.dtype, [x.shape for x in images], size))
        return [model.encode_image(image) for image in images]

    config = SimpleNamespace(vae=SimpleNamespace(factor=8))
    family = SimpleNamespace(references=SimpleNamespace(encode=encode))
    context = SimpleNamespace(model=SimpleNamespace(family=family, config=config))
    latents = [np.zeros((1, 4, 2, 3)), np.ones((1, 4, 5, 1))]
    found = references._encode(context, latents)
    assert [x is y for x, y in zip(found, latents, strict=True)] == [True, True]
    assert asked == [(config, "float64", [(1, 3, 16, 24), (1, 3, 40, 8)], (8, 8))]
