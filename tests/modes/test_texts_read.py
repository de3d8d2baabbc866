"""Prompts that no prediction reads: they are not encoded, and a negative one is answered."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.locate import diff_traces
from ldmref.modes import guidance_parameter
from ldmref.prompts.tokenizer import PromptOptions
from ldmref.samplers import Guidance
from ldmref.samplers.autoguidance import EmbeddedScaleAutoguidance
from ldmref.samplers.guidance_attention import EmbeddedScaleAttention
from ldmref.samplers.guidance_registry import BUILT_IN
from ldmref.samplers.guidances import EmbeddedScale
from ldmref.samplers.predictions import TEXTS, read_texts

RUN = {"seed": 3, "steps": 2}
MODELS = ["tiny", "sd3-tiny", "flux-tiny"]
OWN = (EmbeddedScale, EmbeddedScaleAttention, EmbeddedScaleAutoguidance)
EVERY = [*BUILT_IN, *OWN]


def count_encodings(monkeypatch, model, **values):
    """Return how often each text was encoded in a run, and its result."""
    encoded = Counter()
    encode = type(model).encode_prompts

    def counting(self, prompts, clip_skip, options):
        encoded.update(prompts)
        return encode(self, prompts, clip_skip, options)

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "encode_prompts", counting)
        result = modes.txt2img(model, **RUN | values)
    return encoded, result


# -- what a guidance reads ------------------------------------------------------------------------


@pytest.mark.parametrize("cls", EVERY, ids=lambda cls: cls.__name__)
@given(sigma=st.floats(0.0, 1e13), scale=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(-20, 20)))
def test_the_texts_of_a_guidance_are_those_of_all_levels(cls, sigma, scale):
    """What its predictions read at any level is among the texts, or the run would lack it."""
    guidance = cls()
    assert {*read_texts(guidance.needs(sigma, scale))} <= {*guidance.texts(scale), "cond"}


@pytest.mark.parametrize("cls", EVERY, ids=lambda cls: cls.__name__)
def test_no_guidance_reads_the_negative_prompt_at_scale_1_but_these(cls):
    reads = "uncond" in cls().texts(1.0)
    assert reads == (cls.__name__ in READ_AT_1)


READ_AT_1 = ("NormalizedAttention", "EmbeddedScaleAttention", "PerpendicularNegative")


def test_a_guidance_of_somebody_else_gets_every_text():
    """Its `needs` may ask for another text at a level that nobody tried."""

    class Late(Guidance):
        def needs(self, sigma, cfg_scale):
            return ("cond", "uncond", "empty") if sigma < 1e-3 else ("cond",)

    class Derived(EmbeddedScale):
        def needs(self, sigma, cfg_scale):
            return ("cond",) if sigma > 1.0 else ("uncond",)

    assert Late().texts(1.0) == Derived().texts(1.0) == TEXTS


# -- what is encoded ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_only_what_is_read_is_encoded(monkeypatch, name):
    model = ldmref.random_model(name, backend="numpy")
    alone, _ = count_encodings(monkeypatch, model, prompt="a cat", cfg_scale=1.0)
    assert alone == {"a cat": 1}
    ignored, result = count_encodings(
        monkeypatch, model, prompt="a cat", negative_prompt="a dog", cfg_scale=1.0
    )
    assert ignored == {"a cat": 1}
    [line] = [line for line in result.warnings if "negative" in line]
    assert "guidance nag" in line
    with_both, result = count_encodings(
        monkeypatch, model, prompt="a cat", negative_prompt="a dog", cfg_scale=1.0, guidance="nag"
    )
    assert with_both == {"a cat": 1, "a dog": 1} and not result.warnings


@pytest.mark.parametrize("name", MODELS)
def test_the_image_is_that_of_a_run_that_encodes_everything(monkeypatch, name):
    model = ldmref.random_model(name, backend="numpy")
    for values in ({"cfg_scale": 1.0}, {"cfg_scale": 4.0}, {"guidance": "nag", "cfg_scale": 1.0}):
        prompt = {"prompt": ["a cat", "a red dog"], "negative_prompt": "a house"}
        less = modes.txt2img(model, **RUN, **prompt, **values)
        with monkeypatch.context() as patch:
            every = lambda *arguments: {*TEXTS}  # noqa: E731
            patch.setattr("ldmref.modes.start.texts_read", every)
            more = modes.txt2img(model, **RUN, **prompt, **values)
        assert np.array_equal(less.latents, more.latents)


@pytest.mark.parametrize("options", [{}, {"long_prompts": "chunk"}])
def test_the_empty_prompt_is_encoded_where_it_is_read(monkeypatch, options):
    """As the negative prompt, for `perp_neg`, and to fill up a prompt of fewer chunks."""
    model = ldmref.random_model("tiny", backend="numpy")
    guided, _ = count_encodings(monkeypatch, model, prompt="a cat", cfg_scale=3.0, **options)
    assert guided == {"a cat": 1, "": 1}
    both = {"prompt": "a cat", "negative_prompt": "a dog", "cfg_scale": 3.0, **options}
    negative, _ = count_encodings(monkeypatch, model, **both)
    assert negative == {"a cat": 1, "a dog": 1}
    perp, _ = count_encodings(monkeypatch, model, **both, guidance="perp_neg")
    assert perp == {"a cat": 1, "a dog": 1, "": 1}
    pag, _ = count_encodings(monkeypatch, model, **both, guidance="pag")
    assert pag == {"a cat": 1, "a dog": 1}
    long = {**both, "prompt": "a cat " * 20}
    filled, _ = count_encodings(monkeypatch, model, **long)
    assert filled[""] == (1 if options else 0)


def test_a_step_with_its_own_unconditional_prediction_reads_the_negative_prompt(monkeypatch):
    model = ldmref.random_model("tiny", backend="numpy")
    values = {"prompt": "a cat", "negative_prompt": "a dog", "sampler": "euler_cfgpp"}
    encoded, result = count_encodings(monkeypatch, model, **values, cfg_scale=1.0)
    assert encoded == {"a cat": 1, "a dog": 1} and not result.warnings
    assert guidance_parameter.texts_read(
        EmbeddedScale(), ldmref.samplers.SAMPLERS["euler"], 3.5
    ) == {"cond"}


def embeddings_of(model, prompt, negative=""):
    """The hidden states and pooled outputs of a prompt, as the parameters take them."""
    encoded = model.encode_prompts([prompt], 0, PromptOptions())
    values = {
        f"{negative}prompt_embeds": encoded.states,
        f"{negative}pooled_prompt_embeds": encoded.pooled,
    }
    return {name: np.asarray(x) for name, x in values.items() if x is not None}


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_stand_for_texts_that_are_not_encoded(monkeypatch, name):
    """The image is that of the prompts; only what is given as text is encoded."""
    model = ldmref.random_model(name, backend="numpy")
    scale = {"cfg_scale": 3.0}
    given = embeddings_of(model, "a cat")
    both = given | embeddings_of(model, "a dog", "negative_")
    reads_scale = model.config.denoiser.reads_guidance
    for values, negative, left in ((given, "", {"": 1}), (both, "a dog", {})):
        encoded, result = count_encodings(monkeypatch, model, prompt=None, **values, **scale)
        assert encoded == ({} if reads_scale else left)
        want = modes.txt2img(model, "a cat", negative_prompt=negative, **RUN, **scale)
        np.testing.assert_array_equal(result.latents, want.latents)
    alone, _ = count_encodings(monkeypatch, model, prompt=None, **given, cfg_scale=1.0)
    assert not alone


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_recorded_run_with_embeddings_has_no_fault(name, scale):
    """Also beside a negative prompt, which is the only text that was encoded."""
    model = ldmref.random_model(name, backend="numpy")
    given = embeddings_of(model, "a cat")
    with ldmref.recording(model) as run:
        modes.txt2img(model, None, **RUN, **given, cfg_scale=scale)
    report = diff_traces(run.trace, model)
    assert report.equal, [row for row in report.rows if row.verdict == "differs"]


@pytest.mark.parametrize("name", MODELS)
def test_a_guide_encodes_no_negative_prompt(monkeypatch, name):
    model = ldmref.random_model(name, backend="numpy")
    guide = ldmref.random_model(name, seed=1, backend="numpy")
    asked = {"prompt": "a cat", "negative_prompt": "a dog", "cfg_scale": 3.0, "guide": guide}
    encoded, _ = count_encodings(monkeypatch, model, **asked, guidance="autoguidance")
    reads_scale = model.config.denoiser.reads_guidance
    assert encoded == {"a cat": 2} | ({} if reads_scale else {"a dog": 1})


def test_a_guide_reads_its_prompt_in_the_chunks_of_the_model(monkeypatch):
    """A long negative prompt adds empty chunks to the prompt, also to that of the guide."""
    model = ldmref.random_model("tiny", backend="numpy")
    asked = {"prompt": "a cat", "negative_prompt": "a dog " * 20, "guidance": "autoguidance",
             "cfg_scale": 3.0, "long_prompts": "chunk"}  # fmt: skip
    guide = ldmref.random_model("tiny", seed=1, backend="numpy")
    run = modes.plan("txt2img", model, guide=guide, seed=1, steps=1, **asked).prepare(model)
    own, theirs = run.text, run.guide.text
    assert own.chunks == theirs.chunks and own.chunks[0] > 1
    batch = slice(0, 1)
    lengths = [text.conditionings(batch)["cond"].context.shape[1] for text in (own, theirs)]
    assert lengths[0] == lengths[1]
    denoise = ldmref.denoiser(model, guide=guide, **asked | {"cfg_scale": 1.0})
    assert np.isfinite(denoise(np.ones((1, 4, 8, 8), np.float32), 1.0)).all()


# -- what is said ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, values, line",
    [
        ("tiny", {"cfg_scale": 1.0}, "because cfg_scale is 1; give a cfg_scale above 1 or take "
         "guidance nag for it to count"),
        ("flux-tiny", {}, "because 'flux-tiny' reads the guidance scale itself; take guidance nag "
         "for it to count"),
    ],
)  # fmt: skip
def test_a_negative_prompt_that_nothing_reads_is_answered(name, values, line):
    model = ldmref.random_model(name, backend="numpy")
    said = modes.txt2img(model, "a cat", negative_prompt="a dog", **RUN, **values).warnings
    assert said == [f"nothing reads the negative prompt, {line}"]
    assert not modes.txt2img(model, "a cat", negative_prompt="", **RUN, **values).warnings
    assert not modes.txt2img(model, "a cat", **RUN, **values).warnings


def test_an_edit_reads_it_for_the_source_as_well():
    """FlowEdit has two scales: the negative prompt counts if one of them is not 1."""
    model = ldmref.random_model("sd3-tiny", backend="numpy")
    given = {"image": Image.new("RGB", (16, 16), "teal"), "source_prompt": "a dog"}
    given |= {"prompt": "a cat", "negative_prompt": "a house", "cfg_scale": 1.0, **RUN}
    one = modes.edit(model, **given, source_cfg_scale=1.0)
    assert any("nothing reads the negative prompt" in line for line in one.warnings)
    both = modes.edit(model, **given, source_cfg_scale=3.0)
    assert not any("negative" in line for line in both.warnings)
