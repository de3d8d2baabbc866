"""Configurations of diffusers and transformers: what a file omits, and that no field is ignored.

A field that is left out has the default of its class; a field with another value either changes
what is read, or is refused. Classes and defaults are those of the installed libraries.
"""

from __future__ import annotations

import inspect

import pytest

from ldmref.errors import LdmrefError
from ldmref.io.adapters.autoencoder import convert_tiny_config
from ldmref.io.diffusers.config import (
    convert_autoencoder_config,
    convert_text_config,
    convert_unet_config,
)
from ldmref.io.diffusers.ldm import convert_ldmbert_config, convert_unet2d_config
from ldmref.io.diffusers.scheduler import FIELDS, FORWARD_ONLY, convert_scheduler_config

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

SCHEDULERS = """
    DDIMScheduler DDPMScheduler PNDMScheduler EulerDiscreteScheduler
    EulerAncestralDiscreteScheduler HeunDiscreteScheduler LMSDiscreteScheduler
    DEISMultistepScheduler KDPM2DiscreteScheduler KDPM2AncestralDiscreteScheduler LCMScheduler
    TCDScheduler DPMSolverSinglestepScheduler DDIMParallelScheduler DDPMParallelScheduler
    DPMSolverMultistepScheduler UniPCMultistepScheduler
""".split()
NEEDED = {"PNDMScheduler": {"skip_prk_steps": True}}  # the pipelines set it
DPM, UNIPC = SCHEDULERS[-2:]


def defaults_of(cls):
    """Return the defaults of a class' arguments, for those that a configuration does not name."""
    arguments = inspect.signature(cls.__init__).parameters.values()
    return {a.name: a.default for a in arguments if a.default is not inspect.Parameter.empty}


def another(value):
    """Return a value that no field has by default."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, tuple | list):
        return [another(x) for x in value] or [0]
    return "something else"


def read_or_refused(read, data):
    """Read a configuration; return the error's class if it is refused."""
    try:
        return read(data)
    except LdmrefError as error:
        return type(error)


# -- schedulers -----------------------------------------------------------------------------------


def read_scheduler(kind):
    return lambda data: convert_scheduler_config(
        NEEDED.get(kind, {}) | data | {"_class_name": kind}
    )


def test_every_class_that_a_folder_may_name_is_tested():
    assert sorted(SCHEDULERS) == sorted(FIELDS)


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_schedulers_missing_fields_have_its_defaults(kind):
    read = read_scheduler(kind)
    full = defaults_of(getattr(diffusers, kind))
    full |= NEEDED.get(kind, {})
    want = read(full)
    assert read({}) == want
    for name in full:
        assert read({k: v for k, v in full.items() if k != name}) == want, name


@pytest.mark.parametrize("kind", FORWARD_ONLY)
def test_a_scheduler_without_a_sampler_has_its_forward_process(kind):
    full = defaults_of(getattr(diffusers, kind))
    if full:  # without torchsde, diffusers has a class without arguments for its SDE
        assert {name: full[name] for name in FORWARD_ONLY[kind]} == FORWARD_ONLY[kind]
    config = read_scheduler(kind)({"beta_end": 0.03, "prediction_type": "v_prediction"})
    assert (config.sampler, config.beta_end, config.prediction_type) == (kind, 0.03, "v")


TOGETHER = {  # fields that act only with others
    "clip_sample_range": {"clip_sample": True},
    "dynamic_thresholding_ratio": {"thresholding": True},
    "sample_max_value": {"thresholding": True},
}
OTHERS = {"lambda_min_clipped": -5.0, "trained_betas": [0.1]}
WITHOUT_EFFECT = {
    "flow_shift",
    "time_shift_type",
    "use_flow_sigmas",  # of flow matching, which is refused
    "variance_type",
    "solver_p",  # tested below, or refused where they act
}
# Its class declares them, and its step reads none of them
UNUSED_BY_TCD = """
    clip_sample clip_sample_range thresholding dynamic_thresholding_ratio sample_max_value
    timestep_scaling
""".split()


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_no_field_of_a_scheduler_is_ignored(kind):
    read = read_scheduler(kind)
    full = defaults_of(getattr(diffusers, kind))
    full |= NEEDED.get(kind, {})
    for name, value in full.items():
        if name in WITHOUT_EFFECT or (kind == "TCDScheduler" and name in UNUSED_BY_TCD):
            continue
        base = full | {k: v for k, v in TOGETHER.get(name, {}).items() if k in full}
        other = OTHERS.get(name, another(value))
        assert read_or_refused(read, base | {name: other}) != read(base), name


def test_variance_of_ddpm():
    read = read_scheduler("DDPMScheduler")
    assert read({"variance_type": "fixed_large"}) != read({})
    assert read({"variance_type": "fixed_small_log"}) == read({})  # the same variance
    for unknown in ("learned", "learned_range", "fixed_large_log"):
        assert issubclass(read_or_refused(read, {"variance_type": unknown}), LdmrefError)


SOLVERS = {
    ("dpmsolver++", 1, "midpoint"): "dpmpp_1",
    ("dpmsolver++", 2, "midpoint"): "dpmpp_2m",
    ("dpmsolver++", 2, "heun"): "dpmpp_2m_heun",
    ("dpmsolver++", 3, "midpoint"): "dpmpp_3m",
    ("sde-dpmsolver++", 1, "midpoint"): "dpmpp_1_sde",
    ("sde-dpmsolver++", 2, "midpoint"): "dpmpp_2m_sde",
    ("sde-dpmsolver++", 2, "heun"): "dpmpp_2m_sde_heun",
    ("sde-dpmsolver++", 3, "heun"): "dpmpp_3m_sde",
    ("dpmsolver", 1, "midpoint"): "dpmpp_1",
    ("dpmsolver", 2, "heun"): "dpm_solver_2m",
    ("dpmsolver", 3, "midpoint"): "dpm_solver_3m",
    ("sde-dpmsolver", 1, "midpoint"): "dpm_solver_1_sde",
    ("sde-dpmsolver", 2, "midpoint"): "dpm_solver_2m_sde",
}


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_sampler_of_a_solver(solver):
    algorithm, order, kind = solver
    options = {"algorithm_type": algorithm, "solver_order": order, "solver_type": kind}
    got = read_scheduler(DPM)(options | {"final_sigmas_type": "sigma_min"})
    assert got.sampler == SOLVERS[solver] and got.solver_type == kind


@pytest.mark.parametrize("solver_type", ["logrho", "bh1", "bh2", "midpoint", "heun"])
@pytest.mark.parametrize("kind", [DPM, UNIPC])
def test_the_type_of_another_classs_solver_is_replaced_as_there(kind, solver_type):
    want = getattr(diffusers, kind)(solver_type=solver_type).config.solver_type
    assert read_scheduler(kind)({"solver_type": solver_type}).solver_type == want


@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", DPM, UNIPC])
def test_the_spacing_of_a_scheduler(kind):
    flags = {
        "use_karras_sigmas": "karras",
        "use_exponential_sigmas": "exponential",
        "use_beta_sigmas": "beta_sigma",
    }
    flags |= {"use_lu_lambdas": "exponential"} if kind == DPM else {}
    for spacing in ("leading", "linspace", "trailing"):
        plain = read_scheduler(kind)({"timestep_spacing": spacing})
        assert plain.spacing == plain.timestep_spacing == spacing
        for flag, name in flags.items():
            got = read_scheduler(kind)({"timestep_spacing": spacing, flag: True})
            assert (got.spacing, got.timestep_spacing) == (name, spacing)


# -- networks -------------------------------------------------------------------------------------


def ldm_bert():
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig

    return LDMBertConfig


NETWORKS = {
    "UNet2DConditionModel": convert_unet_config,
    "UNet2DModel": convert_unet2d_config,
    "AutoencoderKL": convert_autoencoder_config,
    "VQModel": convert_autoencoder_config,
    "AutoencoderTiny": convert_tiny_config,
}
# Fields that do not change the image: training, precision, and heads of parts that are refused.
NEUTRAL = {
    "UNet2DConditionModel": {"addition_embed_type_num_heads", "upcast_attention"},
    "UNet2DModel": {"num_train_timesteps"},
    "AutoencoderKL": {"force_upcast", "sample_size"},
    "VQModel": {"force_upcast", "sample_size"},
    "AutoencoderTiny": {"force_upcast", "latent_magnitude", "latent_shift"},
}


def network_defaults(name):
    full = defaults_of(getattr(diffusers, name)) | {"_class_name": name}
    if name == "UNet2DConditionModel":
        full["sample_size"] = 64
    return full


@pytest.mark.parametrize("name", NETWORKS)
def test_a_networks_missing_fields_have_its_defaults(name):
    read = NETWORKS[name]
    full = network_defaults(name)
    want = read(full)
    assert read({"_class_name": name}) == want
    for field in full.keys() - {"_class_name"}:
        assert read({k: v for k, v in full.items() if k != field}) == want, field


@pytest.mark.parametrize("name", NETWORKS)
def test_no_field_of_a_network_is_ignored(name):
    read = NETWORKS[name]
    full = network_defaults(name)
    for field, value in full.items():
        if field not in NEUTRAL[name] | {"_class_name"}:
            assert read_or_refused(read, full | {field: another(value)}) != read(full), field


def test_text_encoders():
    full = transformers.CLIPTextConfig().to_dict()
    assert convert_text_config({}) == convert_text_config(full)
    one = convert_text_config(full)
    two = convert_text_config(full, xl=True)
    assert (one.skipped_layers, one.final_norm) == (0, True)
    assert (two.skipped_layers, two.final_norm) == (1, False)  # the penultimate layer
    projected = convert_text_config(full, class_name="CLIPTextModelWithProjection")
    assert projected.projection_dim == full["projection_dim"] and one.projection_dim == 0
    bert = defaults_of(ldm_bert())
    assert convert_ldmbert_config({}) == convert_ldmbert_config(bert)
