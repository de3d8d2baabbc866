"""Live pipelines of diffusers with the parameters of a kit: right runs pass, faults are named."""

import pytest

import ldmref
from ldmref.errors import UsageError
from ldmref.passport import check_dump, kit_pipeline, make, make_kit, run_pipeline

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

FAMILIES = ("z-image", "flux2-klein-4b", "sd3-medium")
FORMATS = ("float32", "bfloat16")
ANOTHER_RUN = "run"


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    """Return kits of three families, without wrong dumps, which take long to find."""
    folder = tmp_path_factory.mktemp("kits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "wrong_dumps", lambda trace, original: ([], {}))
        return {name: make_kit(name, folder / name) for name in (*FAMILIES, "flux-dev")}


def judge(kit, dtype="float32", change=lambda pipe: None, **asked):
    """Return the verdict on a recorded pipeline that was changed, or asked for another run."""
    pipe = kit_pipeline(kit).to(getattr(torch, dtype))
    change(pipe)
    with ldmref.recording(pipe) as run:
        run_pipeline(pipe, kit, **asked)
    return check_dump(run.trace, kit, dtype=dtype)


def causes(verdict, kind):
    return {row.cause for row in verdict.report.faults if row.kind == kind}


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_pipeline_passes(kits, family, dtype):
    verdict = judge(kits[family], dtype)
    assert verdict.passed, (str(verdict), verdict.report.gaps)
    assert verdict.report.dtype == dtype and verdict.seen > 0.7 * verdict.nodes
    notes = "; ".join(verdict.report.notes)
    if family != "sd3-medium":  # whose encoders have no layer behind the states that are read
        assert "layers are not in ldmref's definition of text_encoder" in notes


def test_kits_of_other_families_are_refused(kits):
    with pytest.raises(UsageError, match="pipeline of flux is not built"):
        kit_pipeline(kits["flux-dev"])


# -- faults ---------------------------------------------------------------------------------------


def scale_weight(pipe):
    names = [name for name, _ in pipe.transformer.named_parameters() if "to_q.weight" in name]
    pipe.transformer.get_parameter(names[0]).mul_(1.25)


def read_after_the_norm(pipe):
    """Let the transformer read the last hidden state, which is normalised."""

    def change(module, args, kwargs, output):
        states = list(output.hidden_states)
        states[-2] = states[-1]
        output.hidden_states = tuple(states)
        return output

    pipe.text_encoder.register_forward_hook(change, with_kwargs=True)


def ignore_the_mask(pipe):
    def change(module, args, kwargs):
        return args, {**kwargs, "attention_mask": torch.ones_like(kwargs["attention_mask"])}

    pipe.text_encoder.register_forward_pre_hook(change, with_kwargs=True)


def shift_otherwise(pipe):
    changed = {"shift": 1.5, "use_dynamic_shifting": False}
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **changed)


def leave_out_the_shift_factor(pipe):
    pipe.vae.register_to_config(shift_factor=0.0)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_scaled_weight_is_named(kits, family, dtype):
    """In bfloat16 the number is as exact as the format."""
    faults = judge(kits[family], dtype, scale_weight).report.faults
    assert {row.layer.rpartition(".")[2] for row in faults} == {"to_q"}
    assert all("scaled by 1.25" in row.cause or "scaled by 1.24" in row.cause for row in faults)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_another_guidance_scale_is_named(kits, family, dtype):
    verdict = judge(kits[family], dtype, guidance_scale=9.0)
    scale = 10 if family == "z-image" else 9  # diffusers' number is less by one
    assert causes(verdict, ANOTHER_RUN) == {f"guidance scale {scale} instead of 5"}


@pytest.mark.parametrize("family", FAMILIES)
def test_another_shift_is_named(kits, family):
    (cause,) = causes(judge(kits[family], change=shift_otherwise), ANOTHER_RUN)
    assert cause.startswith("shift 1.5 instead of ")


@pytest.mark.parametrize("family", FAMILIES)
def test_exchanged_prompts_are_named(kits, family):
    verdict = judge(kits[family], prompt=["red heart", "red"])
    expected = "prompts ['red heart', 'red'] instead of ['red', 'red heart']"
    assert causes(verdict, ANOTHER_RUN) == {expected}


@pytest.mark.parametrize("dtype", FORMATS)
def test_states_after_the_final_norm_are_named(kits, dtype):
    verdict = judge(kits["z-image"], dtype, read_after_the_norm)
    assert causes(verdict, "own") == {"clip skip: 1 layer more, with the final norm"}


@pytest.mark.parametrize("dtype", FORMATS)
def test_one_of_joined_states_after_the_final_norm_is_named(kits, dtype):
    """FLUX.2 reads three states side by side."""
    verdict = judge(kits["flux2-klein-4b"], dtype, read_after_the_norm)
    assert causes(verdict, "own") == {"part 3 of 3 is the state after the final norm"}


@pytest.mark.parametrize("family", ["z-image", "sd3-medium"])
def test_a_missing_shift_of_latents_is_named(kits, family):
    verdict = judge(kits[family], change=leave_out_the_shift_factor)
    assert causes(verdict, "latents") == {"the shift factor is missing"}


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_mask_that_is_not_given_is_named(kits, dtype):
    """FLUX.2 reads the states of padding, which the text encoder's mask changes."""
    verdict = judge(kits["flux2-klein-4b"], dtype, change=ignore_the_mask)
    assert causes(verdict, "tokens") == {"padding is not masked"}


def ignore_the_mask_within(pipe):
    """Let the text encoder be given its mask, and not use it."""
    model = pipe.text_encoder.model
    forward = model.forward
    model.forward = lambda *args, **kwargs: forward(*args, **{**kwargs, "attention_mask": None})


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_mask_that_is_not_used_is_named(kits, dtype):
    """In rows that are judged alone too: the states of padding are read, so they are compared."""
    verdict = judge(kits["flux2-klein-4b"], dtype, ignore_the_mask_within)
    assert verdict.verdict == "differs"
    assert {row.layer.rpartition(".")[2] for row in verdict.report.faults} == {"attention"}
    assert causes(verdict, "own") == {"the padding mask is missing"}
