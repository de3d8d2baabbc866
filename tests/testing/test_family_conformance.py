"""Each check of a family finds the fault that it is for, and says what it did not compare."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import wraps
from types import ModuleType

import numpy as np
import pytest

from ldmref.cases.golden_families import GoldenRun, golden_models_of
from ldmref.errors import UsageError, VerifyError
from ldmref.families.sd3 import SD3
from ldmref.io.key_table import KeyEntry
from ldmref.models.conditioning import Conditioning
from ldmref.models.declared import BATCH, CallSize, NetworkInput
from ldmref.models.family import BUILT_IN, find_family
from ldmref.ports.port import port_of
from ldmref.testing import (
    FAMILY_CHECKS,
    FamilyCheck,
    LivePipeline,
    Original,
    assert_family_conforms,
    check_family,
)
from ldmref.testing.family import declaration, files, learning, pipelines
from ldmref.testing.family.networks import check_padding, relative_error
from ldmref.testing.family.oracles import FamilyOptions
from ldmref.testing.family.report import Findings
from ldmref.testing.family.subject import Subject
from ldmref.training.family_rules import training_rules_of

TINY = "sd3-tiny"


@pytest.fixture
def install(monkeypatch):
    """Make a family that of its name, for every tool."""

    def register(family):
        module = ModuleType("faulty_family")
        module.FAMILY = family
        monkeypatch.setitem(sys.modules, "faulty_family", module)
        monkeypatch.setitem(BUILT_IN, family.name, "faulty_family:FAMILY")
        find_family.cache_clear()
        return family

    yield register
    monkeypatch.undo()
    find_family.cache_clear()


def with_training(**changes):
    return replace(SD3, training=replace(training_rules_of(SD3), **changes))


def with_runs(*runs):
    return replace(SD3, golden=replace(golden_models_of(SD3), runs=runs))


def with_lora(**changes):
    return replace(SD3, lora=replace(SD3.lora, **changes))


def with_network(change, name="transformer"):
    """Return the family with another function of a network: `change(function, *arguments)`."""

    def networks(config):
        return [
            replace(network, function=changed(network.function))
            if network.name == name
            else network
            for network in SD3.networks(config)
        ]

    def changed(function):
        @wraps(function)
        def compute(*args, **kwargs):
            return change(function, *args, **kwargs)

        return compute

    return replace(SD3, networks=networks)


def problems(family, check, **options):
    """Return the lines about a family, all of which are about one check."""
    report = check_family(family, only=[check], presets=[TINY], **options)
    assert report.broken in ([], [check])
    return "\n".join(report.problems)


# -- what is declared -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "line"),
    [
        (with_training(ends=(".pos_embed.prj.weight",)),
         "TrainingRules.ends: no parameter ends with '.pos_embed.prj.weight'; did you mean"),
        (with_training(zeros=lambda config: ("proj_uot.weight",)),
         "TrainingRules.zeros: no parameter ends with 'proj_uot.weight'; did you mean 'proj_out."),
        (with_training(fixed=lambda config: {"transformer.pos_embed.table": np.ones}),
         "TrainingRules.fixed: no parameter 'transformer.pos_embed.table'"),
        (with_lora(targets={"attention": (".to_quer",)}),
         "lora.targets['attention']: no layer ends with '.to_quer'"),
        (with_lora(layers=lambda config: {"proj_out.wait": KeyEntry("a", (1,))}),
         "lora.layers: no parameter 'proj_out.wait'; did you mean 'proj_out.weight'"),
        (with_lora(layers=lambda config: {"proj_out.weight": KeyEntry("a", (1,))}),
         "lora.layers: 'proj_out.weight' is (1,), the parameter"),
        (replace(SD3, text=replace(SD3.text, optional=("text_encoder_4",))),
         "text.optional: no text encoder 'text_encoder_4'; did you mean"),
        (with_runs(GoldenRun("sd3-medum", "euler")),
         "GoldenModels.runs: no preset 'sd3-medum'; did you mean 'sd3-medium'"),
    ],
)  # fmt: skip
def test_a_name_that_nothing_has_is_found(install, family, line):
    assert line in problems(install(family), "names")


def test_an_argument_that_the_function_lacks_is_found(install):
    def networks(config):
        found = SD3.networks(config)
        return [replace(n, inputs=n.inputs[:-1]) if n.name == "transformer" else n for n in found]

    found = problems(install(replace(SD3, networks=networks)), "names")
    assert "transformer: its function needs 'pooled', which is neither an input nor a" in found


def test_a_preset_that_is_not_valid_is_found(install):
    tiny = SD3.presets[TINY]
    wrong = replace(tiny, denoiser=replace(tiny.denoiser, dual_attention_layers=(9,)))
    family = install(
        replace(SD3, presets={TINY: wrong}, golden=replace(golden_models_of(SD3), runs=()))
    )
    assert "'sd3-tiny': bad model configuration" in problems(family, "presets")


def test_a_wrong_number_of_parameters_is_found():
    found = problems(SD3, "parameters", parameters={"sd3-medium": 2_000_000_000})
    assert "parameters, published are 2,000,000,000" in found


def test_a_wrong_number_of_operations_is_found(install):
    work = replace(SD3.work, flops=lambda config, w, h: 2 * SD3.work.flops(config, w, h))
    found = problems(install(replace(SD3, work=work)), "flops")
    assert "work.flops says 2,630,144 at 16 x 16, torch counts 1,315,072 (100.00% off" in found


# -- networks -------------------------------------------------------------------------------------


@pytest.fixture
def original():
    """Diffusers' transformer in float64, with our configuration of it."""
    pytest.importorskip("diffusers")
    import sd3_networks

    config = replace(SD3.presets[TINY], denoiser=sd3_networks.config_of("3 medium"))
    module = sd3_networks.in_float64(sd3_networks.make_transformer("3 medium"))

    def call(module, x):
        return module(x["x"], x["context"], x["pooled"], x["t"]).sample

    return Original(module, call, config)


def test_a_network_that_is_not_the_original_is_found(original):
    assert problems(SD3, "original", originals=[original]) == ""
    wrong = replace(original, call=lambda module, x: original.call(module, x) * (1 + 1e-8))
    found = problems(SD3, "original", originals=[wrong])
    assert "on numpy at 8 x 8 it is 1.0e-08 of its largest value" in found
    assert "on torch at 8 x 12" in found


def test_parameters_of_the_original_that_are_missing_are_found(original):
    def read(state):
        renamed = {f"{n}x" if n == "proj_out.bias" else n: x for n, x in state.items()}
        return {n: x[:3] if n == "proj_out.weight" else x for n, x in renamed.items()}

    found = problems(SD3, "original", originals=[replace(original, read=read)])
    assert "the original also has proj_out.biasx" in found
    assert "the original lacks proj_out.bias" in found
    assert "proj_out.weight is (3, 16) in the original, (16, 16) here" in found


def test_an_original_in_float32_proves_nothing(original):
    original.module.float()
    found = problems(SD3, "original", originals=[original])
    assert "the original's parameters are torch.float32: give module.double()" in found


def test_a_network_that_mixes_the_rows_of_a_batch_is_found(install):
    def mix(function, ops, p, config, x, *rest, **more):
        return function(ops, p, config, x, *rest, **more) + 1e-2 * ops.xp.mean(x)

    found = problems(install(with_network(mix)), "batch")
    assert "transformer of 'sd3-tiny': row 0 of 4 is" in found
    assert "prompt 'red' with 2 others is" in found and "away from alone" in found


def test_outputs_that_are_not_declared_are_found(install):
    def split(function, *args, **more):
        return function(*args, **more), function(*args, **more)

    found = problems(install(with_network(split, "vae.decode")), "batch")
    assert "vae.decode of 'sd3-tiny': it returns 2 arrays and declares 1" in found


@pytest.mark.parametrize("reads", [True, False])
def test_padding_that_is_read_is_found(tmp_path, reads):
    """A network of tokens, the mean of those that a mask keeps, or of all."""

    def average(ops, p, config, x, t, context, pooled, mask):
        keep = ops.xp.astype(mask, context.dtype)[:, :, None]
        keep = ops.xp.ones_like(keep) if reads else keep
        return x + ops.xp.mean(context * keep)

    def networks(config):
        mask = NetworkInput("mask", "attention_mask", (BATCH, CallSize("tokens")), "mask")
        network = SD3.declared(config, "transformer")
        return [replace(network, function=average, inputs=(*network.inputs, mask))]

    family = replace(SD3, networks=networks)
    subject = Subject(family, FamilyOptions(presets=(TINY,)), tmp_path)
    found = Findings("padding")
    check_padding(subject, found)
    check = found.close()
    assert check.verdict == ("broken" if reads else "holds")
    assert reads == any("other padding changes the output" in line for line in check.problems)


# -- runs -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_numbers_that_are_not_finite_are_found(install):
    def divide(function, ops, *args, **more):
        return function(ops, *args, **more) * np.float32(np.inf)

    found = problems(install(with_network(divide)), "modes")
    assert "txt2img of 'sd3-tiny'" in found and "inpaint of 'sd3-tiny'" in found


def test_a_mode_that_fails_is_found(install):
    def fail(ops, config, states, pooled, size):
        raise KeyError("pooled") if size[0] != size[1] else None
        return Conditioning(states, pooled)

    text = replace(SD3.text, condition=fail)
    found = problems(install(replace(SD3, text=text)), "modes")
    assert "img2img of 'sd3-tiny': KeyError: 'pooled'" in found


def test_a_text_length_that_changes_nothing_is_found(install):
    text = replace(SD3.text, with_length=lambda config, length: config)
    found = problems(install(replace(SD3, text=text)), "modes")
    assert "text.with_length('sd3-tiny', 8) changes nothing" in found


def test_a_backend_with_another_image_is_found(install):
    def differ(function, ops, *args, **more):
        output = function(ops, *args, **more)
        return output + 0.5 if ops.name == "torch" else output

    found = problems(install(with_network(differ)), "backends", backends=["torch"])
    assert "txt2img of 'sd3-tiny' on torch is" in found and "/255 away from NumPy's image" in found


def test_a_wrong_estimate_is_found(install, monkeypatch):
    work = replace(SD3.work, activations=lambda config, w, h: 1000)
    found = problems(install(replace(SD3, work=work)), "estimate")
    assert "work.activations says 1,000 for" in found
    monkeypatch.setattr("ldmref.advice.cost.count_predictions", lambda *args: 1)
    found = problems(install(SD3), "estimate")
    assert "'sd3-tiny': a plan says 1 evaluations, its run takes 4" in found


# -- pipelines ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """A pipeline of diffusers, with the request for its image."""
    pytest.importorskip("diffusers")
    import sd3_networks
    import torch

    def run(pipe):
        generator = torch.Generator().manual_seed(5)
        options = {"num_inference_steps": 1, "guidance_scale": 4.0, "output_type": "np"}
        return pipe("cat", generator=generator, width=24, height=16, **options)

    pipe = sd3_networks.make_pipeline("3 medium", False)
    folder = tmp_path_factory.mktemp("sd3") / "model"
    pipe.save_pretrained(folder)
    request = {"prompt": "cat", "steps": 1, "cfg_scale": 4.0, "seed": 5, "rng": "torch",
               "width": 24, "height": 16}  # fmt: skip
    return LivePipeline(pipe, run, request, folder=folder)


def test_a_layer_of_a_live_pipeline_is_found(live):
    layer = live.pipeline.transformer.transformer_blocks[1].ff_context
    hook = layer.register_forward_hook(lambda module, args, output: 1.01 * output)
    try:
        found = problems(SD3, "live pipeline", pipelines=[live])
    finally:
        hook.remove()
    assert "transformer.000/transformer_blocks.1.ff_context (own) differs" in found
    assert problems(SD3, "live pipeline", pipelines=[live]) == ""


def test_what_is_recorded_and_not_compared_is_said(live, monkeypatch):
    report = pipelines.diff
    gap = "a layer has no place"
    monkeypatch.setattr(pipelines, "diff", lambda *args: replace(report(*args), gaps=(gap,)))
    assert gap in problems(SD3, "live pipeline", pipelines=[live])
    partial = replace(live, whole=False)
    found = check_family(SD3, only=["live pipeline"], pipelines=[partial])["live pipeline"]
    assert found.verdict == "holds" and gap in found.left_out[0] and gap in str(found)


def test_a_wrong_layer_that_is_not_named_is_found(live, monkeypatch):
    assert problems(SD3, "wrong layer", pipelines=[live]) == ""
    monkeypatch.setattr(pipelines, "WRONG", (1.0, 0.0))
    found = problems(SD3, "wrong layer", pipelines=[live])
    assert "was made wrong, and named were none" in found


def test_another_image_than_the_pipeline_s_is_found(live):
    options = {"backends": ["torch"]}
    assert problems(SD3, "pipeline images", pipelines=[live], **options) == ""
    other = replace(live, request=live.request | {"seed": 6})
    found = problems(SD3, "pipeline images", pipelines=[other], **options)
    assert "StableDiffusion3Pipeline on torch: the image is" in found
    other = replace(live, request=live.request | {"width": 16})
    found = problems(SD3, "pipeline images", pipelines=[other], **options)
    assert "the image is (16, 16, 3), the pipeline's (16, 24, 3)" in found


def test_halves_of_no_order_are_found(monkeypatch):
    wrong = replace(port_of(SD3), halves=("cond", "cond"))
    monkeypatch.setattr(declaration, "port_of", lambda family: wrong)
    assert "halves ('cond', 'cond') are not" in problems(SD3, "names")


def test_a_folder_of_another_family_is_found(live, install):
    family = install(replace(SD3, folders={"OtherPipeline": None}))
    found = problems(family, "pipeline folder", pipelines=[live])
    assert "StableDiffusion3Pipeline" in found and "is not supported" in found


# -- ports ----------------------------------------------------------------------------------------


def test_a_network_that_differs_from_itself_is_found(install):
    def differ(function, ops, *args, **more):
        output = function(ops, *args, **more)
        return 1.01 * output if type(ops).__name__ == "Replay" else output

    found = problems(install(with_network(differ)), "traces")
    assert "'sd3-tiny': transformer.000" in found and "differs from itself" in found


def is_graph(ops):
    return "graph" in type(ops).__module__


def differ_in_graphs(function, ops, *args, **more):
    """Compute something else where a graph is made."""
    output = function(ops, *args, **more)
    return 1.01 * output if is_graph(ops) else output


@pytest.mark.parametrize(
    ("check", "line"),
    [
        ("export", "transformer of 'sd3-tiny': the graph is"),
        ("cases", "FAILED sd3-tiny.transformer"),
    ],
)
def test_a_graph_that_computes_something_else_is_found(install, check, line):
    pytest.importorskip("onnxruntime")
    found = problems(install(with_network(differ_in_graphs)), check)
    assert line in found


# -- training and files ---------------------------------------------------------------------------


def last_queries(config):
    last = f"transformer_blocks.{config.denoiser.num_layers - 1}.attn."
    return [last + n for n in ("add_q_proj.weight", "add_q_proj.bias", "norm_added_q.weight")]


def test_a_parameter_that_nothing_reads_is_found():
    pytest.importorskip("torch")
    assert problems(SD3, "training", unread=last_queries) == ""
    found = problems(SD3, "training")
    assert "no gradient reaches 3 parameters: transformer.transformer_blocks.2.attn.add_q" in found
    more = [*last_queries(SD3.presets[TINY]), "proj_out.bias"]
    found = problems(SD3, "training", unread=lambda config: more)
    assert "a gradient reaches transformer.proj_out.bias, which nothing reads" in found


def test_tensors_that_a_file_is_recognised_by(install):
    def recognise(shapes):
        return SD3.files[0].recognise(shapes) if "size" in shapes else None

    family = install(replace(SD3, files=[replace(SD3.files[0], recognise=recognise)]))
    assert "of no preset is recognised" in problems(family, "single files")
    assert problems(family, "single files", also_stored=lambda config: {"size": (1,)}) == ""


def test_a_computed_parameter_that_a_training_changes_is_found(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr("ldmref.training.diffusion.stage.with_fixed", lambda config, p: p)
    found = problems(SD3, "training", unread=last_queries)
    assert "pos_embed.pos_embed is computed (TrainingRules.fixed), and a training" in found


def test_parameters_that_do_not_move_are_found(monkeypatch):
    pytest.importorskip("torch")
    steps = learning._run_steps
    monkeypatch.setattr(learning, "_run_steps", lambda *args: (steps(*args)[0], set()))
    found = problems(SD3, "training", unread=last_queries)
    assert "4 steps do not move transformer." in found


def test_a_folder_that_loses_digits_is_found(monkeypatch):
    save = files.save_folder

    def save_narrow(folder, config, params, tokenizers, dtype):
        save(folder, config, params, tokenizers, np.float16)

    monkeypatch.setattr(files, "save_folder", save_narrow)
    assert "'sd3-tiny': the folder has other numbers in" in problems(SD3, "folders")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"recognise": lambda shapes: None}, "the file of no preset is recognised"),
        (
            {"recognise": lambda shapes: replace(
                SD3.presets[TINY], name="other", denoiser=replace(
                    SD3.presets[TINY].denoiser, sample_size=9))},
            "it is taken for 'other', whose denoiser has another sample_size",
        ),
        (
            {"table": lambda config: {n: e for n, e in SD3.files[0].table(config).items()
                                      if n != "proj_out.bias"}},
            "the table lacks proj_out.bias",
        ),
        (
            {"table": lambda config: {
                n: replace(e, third=0) if n.endswith("to_k.weight") else e
                for n, e in SD3.files[0].table(config).items()}},
            "reading and writing changes model.diffusion_model.joint_blocks.0.",
        ),
    ],
)  # fmt: skip
def test_a_wrong_single_file_is_found(install, changes, line):
    family = install(replace(SD3, files=[replace(SD3.files[0], **changes)]))
    assert line in problems(family, "single files")


# -- the report -----------------------------------------------------------------------------------


def test_every_check_has_a_fault_here():
    text = open(__file__, encoding="utf-8").read()
    lacking = [check for check in FAMILY_CHECKS if f'"{check}"' not in text]
    assert not lacking


def test_all_problems_are_listed_at_once(install):
    work = replace(SD3.work, flops=lambda config, w, h: 1)
    family = install(replace(with_training(ends=("nothing.weight",)), work=work))
    with pytest.raises(AssertionError) as caught:
        assert_family_conforms(family, only=["names", "flops", "original"], presets=[TINY])
    error = caught.value
    assert isinstance(error, VerifyError) and "breaks what it declares: 2 problems" in str(error)
    begins = [line.partition(":")[0] for line in error.report]
    assert begins == ["BROKEN", "BROKEN", "holds", "not checked"]


def test_a_family_that_is_not_installed_is_found():
    other = replace(SD3, name="sd9")
    assert "no family 'sd9'" in check_family(other)["installed"].problems[0]
    again = replace(SD3)
    assert "names another family than the one" in check_family(again)["installed"].problems[0]


def test_what_is_not_compared_is_not_said_to_hold():
    report = check_family("sd3", only=["padding", "live pipeline", "original"], presets=[TINY])
    assert report.not_checked == ["original", "padding", "live pipeline"] and not report.broken
    assert "not checked: original: none was given (originals=)" in str(report)
    assert FamilyCheck("empty").verdict == "not checked"


@pytest.mark.parametrize("missing", ["torch", "onnxruntime"])
def test_a_library_that_is_missing_is_named(monkeypatch, missing):
    pytest.importorskip("onnx")
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "torch":
        monkeypatch.setitem(sys.modules, "torch.utils.flop_counter", None)
    check = {"torch": "training", "onnxruntime": "export"}[missing]
    report = check_family("sd3", only=[check], presets=[TINY])
    assert report.not_checked == [check] and f"{missing} is not installed" in str(report)


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match="no check 'flop'") as caught:
        check_family("sd3", only=["flop"])
    assert "did you mean 'flops'" in caught.value.hint
    with pytest.raises(UsageError, match="no preset 'sd3-tini'"):
        check_family("sd3", presets=["sd3-tini"])


def test_equal_infinities_are_equal():
    x = np.asarray([1.0, -np.inf])
    assert relative_error(x, x) == 0.0
    assert relative_error(np.asarray([1.0, 0.0]), x) == np.inf
    assert relative_error(np.asarray([np.nan, -np.inf]), x) == np.inf
    assert relative_error(np.asarray([1.5, -np.inf]), x) == 0.5
