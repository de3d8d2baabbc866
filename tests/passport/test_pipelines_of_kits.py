"""Live pipelines of diffusers with the parameters of a kit: right runs pass, faults are named."""

from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref.errors import UsageError
from ldmref.locate import diff_modules, diff_traces
from ldmref.passport import check_dump, kit_pipeline, make, make_kit, pipelines, run_pipeline
from ldmref.passport.original import AS_DIFFUSERS, BATCH
from ldmref.passport.pipelines import load_parameters, make_object
from ldmref.ports.library_object import LibraryObject

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

FAMILIES = ("z-image", "flux2-klein-4b", "sd3-medium", "flux-dev", "sd15", "sdxl", "krea-2")
SIBLINGS = ("flux-schnell", "sd2-base", "krea-2-turbo", "sd35-medium")  # of the same pipelines
ALONE = ("qwen-image-2.1", "qwen-image-2.1-turbo")  # a call for each prompt
MODULAR = ("flux3-klein-base", "flux3-klein")  # the same, by modular pipelines
FLOWS = ("z-image", "flux2-klein-4b", "sd3-medium", "flux-dev", "krea-2")
FORMATS = ("float32", "bfloat16")
ANOTHER_RUN = "run"
# the scale of a call, and ours: some pipelines of diffusers have a number that is less by one
SCALES = {"z-image": (9.0, 10), "krea-2": (9.0, 10)}
EITHER_FORMAT = [(family, FORMATS[i % 2]) for i, family in enumerate(FAMILIES)]
NOT_BUILT = {
    "ldm-text2img256": "LDMTextToImagePipeline reads 77 tokens, .* and no negative prompt",
    "emoji-128": "diffusers has no pipeline of emoji-128: its U-Net adds the text to the time",
}


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    """Return kits, without wrong dumps, which take long to find."""
    folder = tmp_path_factory.mktemp("kits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "wrong_dumps", lambda trace, original: ([], {}))
        names = (*FAMILIES, *SIBLINGS, *ALONE, *MODULAR, *NOT_BUILT)
        return {name: make_kit(name, folder / name) for name in names}


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
@pytest.mark.parametrize("family", (*FAMILIES, *SIBLINGS))
def test_a_right_pipeline_passes(kits, family, dtype):
    verdict = judge(kits[family], dtype)
    assert verdict.passed, (str(verdict), verdict.report.gaps)
    assert verdict.report.dtype == dtype and verdict.seen > 0.7 * verdict.nodes
    notes = "; ".join(verdict.report.notes)
    later = family.startswith(("z-image", "flux2", "krea-2"))  # layers behind the states
    assert ("nothing reads layers." in notes) is later


@pytest.mark.parametrize(
    ("family", "dtype"),
    [*zip(ALONE, FORMATS[::-1], strict=True), *((name, "float32") for name in MODULAR)],
)
def test_prompts_one_after_the_other_are_right(kits, family, dtype):
    """The second call begins with its own latents, and reads its own text."""
    verdict = judge(kits[family], dtype)
    assert verdict.passed, [row for row in verdict.report.rows if row.verdict != "equal"][:3]
    assert verdict.report.dtype == dtype and verdict.seen > 0.6 * verdict.nodes


NETWORKS = ("text_encoder", "text_encoder_2", "text_encoder_3", "unet", "transformer", "vae")


def networks_of(pipe):
    """Return the networks of a pipeline by name."""
    networks = {name: getattr(pipe, name, None) for name in NETWORKS}
    return {name: network for name, network in networks.items() if network is not None}


def judge_networks(kit, change=lambda networks: None):
    """Return the verdict on the networks of a pipeline, recorded by name and without a run."""
    pipe = kit_pipeline(kit)
    networks = networks_of(pipe)
    change(networks)
    with ldmref.recording(networks) as run:
        run_pipeline(pipe, kit)
    return diff_traces(run.trace, kit.model())


@pytest.mark.parametrize("family", (*FAMILIES, *SIBLINGS, *ALONE, *MODULAR))
def test_networks_by_name_are_right(kits, family):
    """They return more than ldmref's, as the states of all layers, and read tokens and lists."""
    report = judge_networks(kits[family])
    assert {row.verdict for row in report.rows} == {"equal"}, report.faults
    assert not report.gaps


@pytest.mark.parametrize("by_name", [True, False], ids=["networks", "pipeline"])
@pytest.mark.parametrize("family", (*FAMILIES, *ALONE, *MODULAR))
def test_modules_are_right_against_themselves(kits, family, by_name):
    """Qwen-Image 2.1's pipeline takes off the last norm of its text encoder, as no module does."""
    kit = kits[family]
    pipe = kit_pipeline(kit)
    networks = networks_of(pipe)
    with ldmref.recording(networks if by_name else pipe) as run:
        run_pipeline(pipe, kit)
    report = diff_modules(run.trace, networks)
    known = {("text_encoder", "lm_head"), ("text_encoder", "")} if family in ALONE else set()
    faults = {(row.call.kind, row.layer) for row in report.faults}
    assert faults <= known, faults


class Autoencoder(torch.nn.Module):
    """An autoencoder of another program, which returns arrays by themselves."""

    def __init__(self, vae):
        super().__init__()
        self.encoder, self.decoder = vae.encoder, vae.decoder
        self.quant_conv, self.post_quant_conv = vae.quant_conv, vae.post_quant_conv

    def encode(self, x):
        moments = self.encoder(x)
        moments = moments if self.quant_conv is None else self.quant_conv(moments)
        return moments.chunk(2, dim=1)

    def decode(self, z):
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))

    def forward(self, x):
        return self.decode(self.encode(x)[0])


@pytest.mark.parametrize("program", ["diffusers", "another"])
@pytest.mark.parametrize("family", (*FAMILIES, *SIBLINGS, *ALONE, *MODULAR))
def test_what_an_autoencoder_encodes_and_decodes_is_judged_by_name(kits, family, program):
    vae = kit_pipeline(kits[family]).vae
    x = torch.randn(1, vae.config.get("in_channels", 3), 8, 16)
    if "AutoencoderKLQwenImage" in type(vae).__name__:
        x = x[:, :, None]
        if program == "another":
            pytest.skip("an autoencoder of videos does more than run its networks")
    network = vae if program == "diffusers" else Autoencoder(vae)
    methods = {name: getattr(type(network), name) for name in ("encode", "decode")}

    def judge_autoencoder():
        with torch.no_grad(), ldmref.recording({"vae": network}) as run:
            network(x)
        calls = {call.kind for call in run.trace.calls}
        assert calls == {"vae.encode", "vae.decode"}
        return diff_traces(run.trace, kits[family].model()), diff_modules(
            run.trace, {"vae": network}
        )

    for report in judge_autoencoder():
        assert {row.verdict for row in report.rows} == {"equal"}, report.faults
        assert not report.gaps
    assert {name: getattr(network, name).__func__ for name in methods} == methods
    network.encoder.conv_in.register_forward_hook(lambda module, args, output: 1.25 * output)
    report, _ = judge_autoencoder()
    assert {(row.layer, row.cause) for row in report.faults} == {
        ("encoder.conv_in", "scaled by 1.25")
    }


def test_a_forward_pass_without_the_methods_of_an_autoencoder_is_said(kits):
    class Whole(Autoencoder):
        def forward(self, x):
            return self.decoder(self.encoder(x)[:, :4])

    network = Whole(kit_pipeline(kits["sd15"]).vae)
    with pytest.warns(UserWarning, match="calls neither encode nor decode"):
        with torch.no_grad(), ldmref.recording({"vae": network}) as run:
            network.decode(torch.randn(1, 4, 8, 8))
            network(torch.randn(1, 3, 8, 8))
    assert [*run.trace.calls] == ["vae.decode"]


@pytest.mark.parametrize("family", (*FAMILIES, *SIBLINGS, *ALONE, *MODULAR))
def test_a_wrong_layer_of_networks_by_name_is_named(kits, family):
    wrong = {}

    def change(networks):
        denoiser = networks.get("unet", networks.get("transformer"))
        parts = denoiser.named_modules()
        layers = {name: part for name, part in parts if isinstance(part, torch.nn.Linear)}
        layers = {name: part for name, part in layers.items() if "image_cond" not in name}
        wrong["layer"] = name = [*layers][len(layers) // 2]
        layers[name].register_forward_hook(lambda module, args, output: 1.25 * output)

    report = judge_networks(kits[family], change)
    named = {(row.layer, row.cause) for row in report.faults if row.cause}
    assert named == {(wrong["layer"], "scaled by 1.25")}
    assert all(row.cause for row in report.faults) or family in ALONE  # of calls with cached states


@pytest.mark.parametrize("name", NOT_BUILT)
def test_pipelines_that_cannot_run_a_kit_are_refused(kits, name):
    with pytest.raises(UsageError, match=NOT_BUILT[name]):
        kit_pipeline(kits[name])


def test_libraries_with_other_classes_or_parameters_are_refused():
    linear = torch.nn.Linear(2, 3)
    weight, bias = np.zeros((3, 2)), np.zeros(3)
    with pytest.raises(UsageError, match="the installed version of torch has no Nothing"):
        make_object(LibraryObject("torch:Nothing"))
    with pytest.raises(UsageError, match="Linear has no parameter weight of"):
        load_parameters(linear, {"weight": weight.T, "bias": bias})
    with pytest.raises(UsageError, match="Linear has more parameters than the kit: bias"):
        load_parameters(linear, {"weight": weight})
    assert load_parameters(linear, {"weight": weight}, "bias").weight.abs().max() == 0


# -- faults ---------------------------------------------------------------------------------------


def denoiser_of(pipe):
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def scale_weight(pipe):
    network = denoiser_of(pipe)
    names = [name for name, _ in network.named_parameters() if "to_q.weight" in name]
    network.get_parameter(names[0]).mul_(1.25)


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


def leave_out_the_scaling_factor(pipe):
    pipe.vae.register_to_config(scaling_factor=1.0)


def return_the_input(layer):
    """Let a layer return what it gets: a norm that is left out, or a block."""
    layer.register_forward_hook(lambda module, args, output: args[0])


def leave_out_a_block(pipe):
    def change(module, args, kwargs, output):
        return kwargs["encoder_hidden_states"], kwargs["hidden_states"]

    pipe.transformer.transformer_blocks[1].register_forward_hook(change, with_kwargs=True)


def change_the_schedule(pipe):
    pipe.register_to_config(is_distilled=not pipe.config.is_distilled)


def read_all_tokens(pipe):
    def change(module, args, kwargs):
        mask = kwargs["encoder_attention_mask"]
        return args, {**kwargs, "encoder_attention_mask": torch.ones_like(mask)}

    pipe.transformer.register_forward_pre_hook(change, with_kwargs=True)


def predict_velocity(pipe):
    changed = {"prediction_type": "v_prediction"}
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **changed)


@pytest.mark.parametrize(("family", "dtype"), EITHER_FORMAT)
def test_a_scaled_weight_is_named(kits, family, dtype):
    """In bfloat16 the number is as exact as the format."""
    faults = judge(kits[family], dtype, scale_weight).report.faults
    assert {row.layer.rpartition(".")[2] for row in faults} == {"to_q"}
    assert all("scaled by 1.25" in row.cause or "scaled by 1.24" in row.cause for row in faults)


@pytest.mark.parametrize(("family", "dtype"), EITHER_FORMAT)
def test_another_guidance_scale_is_named(kits, family, dtype):
    asked, found = SCALES.get(family, (9.0, 9))
    verdict = judge(kits[family], dtype, guidance_scale=asked)
    expected = 4 if family == "flux-dev" else 5  # 1000 times it is a number of bfloat16
    assert causes(verdict, ANOTHER_RUN) == {f"guidance scale {found} instead of {expected}"}


@pytest.mark.parametrize(
    ("family", "cause"),
    [
        ("flux-schnell", "guidance scale 9 instead of 5"),
        ("flux-dev", "true guidance scale 9 instead of none"),
    ],
)
def test_another_true_guidance_scale_is_named(kits, family, cause):
    """[schnell] is guided by two predictions; [dev] reads the scale, and a kit has one."""
    assert causes(judge(kits[family], true_cfg_scale=9.0), ANOTHER_RUN) == {cause}


@pytest.mark.parametrize("family", FLOWS)
def test_another_shift_is_named(kits, family):
    (cause,) = causes(judge(kits[family], change=shift_otherwise), ANOTHER_RUN)
    assert cause.startswith("shift 1.5 instead of ")


@pytest.mark.parametrize("family", FAMILIES)
def test_exchanged_prompts_are_named(kits, family):
    verdict = judge(kits[family], prompt=["red heart", "red"])
    expected = f"prompts ['red heart', 'red'] instead of {kits[family].request['prompt']}"
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


@pytest.mark.parametrize("family", ["z-image", "sd3-medium", "flux-dev"])
def test_a_missing_shift_of_latents_is_named(kits, family):
    verdict = judge(kits[family], change=leave_out_the_shift_factor)
    assert causes(verdict, "latents") == {"the shift factor is missing"}


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_mask_that_is_not_given_is_named(kits, dtype):
    """FLUX.2 reads the states of padding, which the text encoder's mask changes."""
    verdict = judge(kits["flux2-klein-4b"], dtype, change=ignore_the_mask)
    assert causes(verdict, "mask of the text") == {"padding is not masked"}


def ignore_the_mask_within(pipe):
    """Let the text encoder ignore the mask that it is given."""
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


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_missing_scale_of_latents_is_named(kits, family):
    verdict = judge(kits[family], change=leave_out_the_scaling_factor)
    assert causes(verdict, "latents") == {"the scaling factor is missing"}


def test_a_norm_that_is_left_out_is_named(kits):
    """The last of CLIP, which Stable Diffusion 1 reads, and of T5; SDXL reads the states before."""
    for family, part, norm in (
        ("sd15", "text_encoder", "final_layer_norm"),
        ("flux-dev", "text_encoder_2", "encoder.final_layer_norm"),
    ):

        def change(pipe, part=part, norm=norm):
            return_the_input(getattr(pipe, part).get_submodule(norm))

        faults = judge(kits[family], change=change).report.faults
        found = {(row.call.partition("~")[0], row.layer.endswith(norm)) for row in faults}
        assert found == {(part, True)}
        assert all(row.cause.startswith("equals the output of") for row in faults)
    verdict = judge(
        kits["sdxl"],
        change=lambda pipe: return_the_input(pipe.text_encoder.get_submodule("final_layer_norm")),
    )
    assert verdict.passed


def test_a_block_that_is_left_out_is_named(kits):
    faults = judge(kits["flux-dev"], change=leave_out_a_block).report.faults
    assert {row.layer for row in faults} == {"transformer_blocks.1"}
    assert {row.cause for row in faults} == {
        "equals its input 'context'",
        "equals its input 'input'",
    }


def test_padding_that_is_read_is_named(kits):
    verdict = judge(kits["krea-2"], change=read_all_tokens)
    assert causes(verdict, "mask of the text") == {"padding is not masked"}


@pytest.mark.parametrize("family", ["krea-2", "krea-2-turbo"])
def test_the_levels_of_the_other_model_are_named(kits, family):
    """The shift of a distilled model is the same for all sizes."""
    verdict = judge(kits[family], change=change_the_schedule)
    (cause,) = causes(verdict, "sigmas") - {""}
    levels = ["1.6057", "3.1582"] if family == "krea-2-turbo" else ["3.1582", "1.6057"]
    assert cause == "shift {} instead of {}".format(*levels)


def test_another_prediction_type_is_named(kits):
    for family in ("sd15", "sdxl"):
        verdict = judge(kits[family], change=predict_velocity)
        assert causes(verdict, "x0") == {"the prediction is read as v instead of eps"}


def test_another_size_that_the_network_reads_is_named(kits):
    """SDXL reads the original size apart from that of the latents."""
    (fault,) = judge(kits["sdxl"], original_size=(6, 12)).report.faults
    assert (fault.call, fault.layer, fault.kind) == ("unet.000", "add_time_proj", ANOTHER_RUN)


# -- Qwen-Image 2.1 -------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "dtype"), [*zip(ALONE, FORMATS, strict=True)])
def test_faults_of_single_calls_are_named(kits, family, dtype):
    faults = judge(kits[family], dtype, scale_weight).report.faults
    assert {row.layer.rpartition(".")[2] for row in faults} == {"to_q"}
    assert all("scaled by 1.25" in row.cause or "scaled by 1.24" in row.cause for row in faults)
    verdict = judge(kits[family], dtype, true_cfg_scale=9.0)
    assert causes(verdict, ANOTHER_RUN) == {"guidance scale 9 instead of 5"}


# Families whose kits say how long texts are, or whose T5 reads all of them.
LENGTHS = ("sd3-medium", "flux-dev", "z-image", "flux2-klein-4b", "krea-2")
READING = [(family, True) for family in ("sd3-medium", "flux-dev", "flux2-klein-4b")]  # padding


@pytest.mark.parametrize(("family", "more"), [*((f, False) for f in LENGTHS), *READING])
def test_texts_of_another_length_are_named(kits, family, more):
    kit = kits[family]
    encoder = kit.config.text_encoders[-1]
    right = kit.request.get("max_sequence_length", encoder.max_position_embeddings)
    length = right + 16 if more else right - 16 if right > 16 else right - 3
    verdict = judge(kit, max_sequence_length=length)
    assert not verdict.passed
    found = {row.cause for row in verdict.report.faults if row.kind in (ANOTHER_RUN, BATCH)}
    assert found == {f"texts of {length} tokens instead of {right}"}


@pytest.mark.parametrize("family", ["z-image", "krea-2"])
def test_more_padding_that_is_hidden_is_no_fault(kits, family):
    kit = kits[family]
    assert judge(kit, max_sequence_length=kit.request["max_sequence_length"] + 32).passed


def test_another_prompt_of_a_single_call_is_named(kits):
    kit = kits["qwen-image-2.1"]
    verdict = judge(kit, prompt=["red", "table"])
    (cause,) = causes(verdict, ANOTHER_RUN) - {""}
    assert cause == f"prompts ['red', 'table'] instead of {kit.request['prompt']}"


def judge_together(kit, monkeypatch, change=lambda pipe: None):
    """Return the verdict on both prompts in one batch, with padding in front of the shorter."""
    parts = pipelines.parts_of
    monkeypatch.setattr(pipelines, "parts_of", lambda config: replace(parts(config), alone=False))
    return judge(kit, change=change)


def test_padding_in_front_turns_queries_and_keys_alike(kits, monkeypatch):
    verdict = judge_together(kits["qwen-image-2.1"], monkeypatch)
    assert not verdict.report.faults and not verdict.passed
    unknown = [row for row in verdict.report.rows if row.verdict == "not judged"]
    assert unknown and all(row.note.startswith(AS_DIFFUSERS) for row in unknown)


def turn_first_row(pipe):
    """Rotate the shorter prompt's queries and keys by the angles of other places."""
    rotary = pipe.text_encoder.model.language_model.rotary_emb
    forward = rotary.forward

    def with_longer_steps(x, position_ids):
        places = position_ids.clone()
        places[..., :1, :] *= 2
        return forward(x, places)

    rotary.forward = with_longer_steps


def test_angles_of_other_places_behind_padding_are_named(kits, monkeypatch):
    verdict = judge_together(kits["qwen-image-2.1"], monkeypatch, turn_first_row)
    wrong = {row.layer for row in verdict.report.faults}
    assert "layers.0.self_attn.attention" in wrong


def round_frequencies(pipe):
    times = pipe.transformer.time_text_embed.time_proj
    times.freqs = times.freqs.to(torch.bfloat16)


def test_rounded_frequencies_of_times_are_named(kits):
    """As `to(bfloat16)` rounds them in a pipeline that was not made from a kit."""
    verdict = judge(kits["qwen-image-2.1"], "bfloat16", round_frequencies)
    assert {row.layer for row in verdict.report.faults} == {"time_text_embed.time_proj"}


# -- FLUX.3 ---------------------------------------------------------------------------------------


def call_encoder_with(**changes):
    """Return a change of a pipeline: its text encoder is given other arguments."""

    def change(pipe):
        forward = pipe.text_encoder.forward

        def call(*args, **given):
            return forward(*args, **given | {k: f(given) for k, f in changes.items()})

        pipe.text_encoder.forward = call

    return change


@pytest.mark.parametrize("family", MODULAR)
def test_faults_of_modular_pipelines_are_named(kits, family):
    faults = judge(kits[family], change=scale_weight).report.faults
    assert {row.layer.rpartition(".")[2] for row in faults} == {"to_q"}
    assert {row.cause for row in faults} == {"scaled by 1.25"}
    unmasked = call_encoder_with(attention_mask=lambda given: 0 * given["attention_mask"] + 1)
    verdict = judge(kits[family], change=unmasked)
    assert causes(verdict, "own") == {"the padding mask is missing"}


def test_another_place_of_padding_is_named(kits):
    """transformers 5 gives padding position 0; FLUX.3 reads it, and was trained with 1."""
    at_zero = call_encoder_with(position_ids=lambda x: x["position_ids"] * x["attention_mask"])
    faults = judge(kits[MODULAR[0]], change=at_zero).report.faults
    assert {row.kind for row in faults} == {"wiring"}
    assert {row.layer.partition(".")[2] for row in faults} == {
        f"{number}.self_attn.attention" for number in (0, 1)
    }


def test_another_guidance_of_a_modular_pipeline_is_named(kits):
    from diffusers.guiders import ClassifierFreeGuidance

    def guide(pipe):
        pipe.update_components(guider=ClassifierFreeGuidance(guidance_scale=9.0))

    verdict = judge(kits[MODULAR[0]], change=guide)
    assert causes(verdict, ANOTHER_RUN) == {"guidance scale 9 instead of 5"}


@pytest.mark.parametrize("family", MODULAR)
def test_times_that_bfloat16_rounds_are_another_run(kits, family):
    """The second time, 0.8738, becomes 0.875, and waves of 1000 times it turn by a radian."""
    (fault,) = judge(kits[family], "bfloat16").report.faults
    assert fault.kind == ANOTHER_RUN and not fault.cause


# -- Heun's steps ---------------------------------------------------------------------------------


def take_eulers_steps(pipe):
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=pipe.scheduler.config.shift)


def test_the_steps_of_another_sampler_differ(kits):
    verdict = judge(kits["sd35-medium"], change=take_eulers_steps)
    assert verdict.verdict == "differs"
