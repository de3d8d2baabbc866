"""The peer's side of a case: diffusers, transformers or an engine with ldmref's weights.

Their libraries are imported on first use (`import_peer`).
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.blocks import block_peer
from benchmarks.cases import BenchmarkCase
from benchmarks.engines import ENGINES, engine_workload
from benchmarks.work import Workload, pixels
from ldmref.backends.fast.threads import one_thread
from ldmref.errors import BackendUnavailable
from ldmref.math.schedules import alpha_bar_from_sigma
from ldmref.models.config import AutoencoderConfig, ModelConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import flatten
from ldmref.samplers.schedule import sampling_sigmas

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
PACKAGES = ("torch", "diffusers", "transformers")


def import_peer(library: str, packages: Sequence[str] = PACKAGES) -> Any:
    """Import a peer's library; if it is missing, the hint says to install `packages`.

    Raises:
        BackendUnavailable: The library is not installed.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module(library)
    except ImportError as error:
        message = f"the peer of this row needs {library}, which cannot be imported"
        hint = f"pip install {' '.join(packages)}"
        raise BackendUnavailable(message, code="E-PEER", hint=hint) from error


def require_peer(case: BenchmarkCase) -> None:
    """Check the peer's libraries and device before anything is computed.

    Raises:
        BackendUnavailable: A library or the device is missing.
    """
    if case.peer == "one_thread":
        return
    if case.peer in ENGINES:
        for library in ENGINES[case.peer]:
            import_peer(library, ENGINES[case.peer])
        return
    torch = import_peer("torch")
    if case.peer == "torch":
        return
    image = ("diffusers", "transformers")
    libraries = {"text": image[1:], "image": image, "train": image}
    for library in libraries.get(case.work, image[:1]):
        import_peer(library)
    if case.device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable(
            "this row needs a CUDA device, and torch sees none",
            code="E-DEVICE",
            hint="run it on a machine with an NVIDIA GPU and a CUDA build of torch",
        )


def peer_workload(case: BenchmarkCase, model: Any, inputs: Any) -> Workload:
    """Return the peer's side of a case, with the weights of `model`.

    Raises:
        BackendUnavailable: The peer is not installed.
    """
    if case.peer == "one_thread":
        return _on_one_thread(case.make_workload(model, inputs))
    if case.peer in ENGINES:
        return engine_workload(case, model, inputs)
    if case.peer == "torch":
        other = replace(case, backend="torch", speed="")
        return other.make_workload(other.make_model(), inputs)
    if case.is_block:
        return block_peer(model, inputs)
    torch = import_peer("torch")
    dtype = getattr(torch, case.dtype)
    channels_last = case.peer == "channels_last"
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def tensor(x: np.ndarray) -> Any:
        y = torch.from_numpy(x).to(case.device)
        y = y.to(dtype) if y.is_floating_point() else y
        return y.contiguous(memory_format=layout) if y.ndim == 4 else y

    networks = {name: peer_network(name, model).to(case.device, dtype) for name in case.networks}
    for name, network in networks.items():
        if channels_last and name != "text_encoder":
            network.to(memory_format=layout)
        if case.peer == "compiled":
            network.compile()
    latents, context, token_ids = map(tensor, (inputs.latents, inputs.context, inputs.token_ids))
    timesteps = tensor(inputs.timesteps).float()
    # the embedded model adds the last token to the time embedding
    labels = context[:, -1] if model.config.unet.class_embed_type else None
    scale = model.config.kl_or_vq.scaling_factor
    if case.work == "image":
        make = sampling_loop if model.config.unet.class_embed_type else pipeline
        run = make(case, model.config, networks, latents, token_ids)
    else:
        run = {
            "unet": lambda: networks["unet"](latents, timesteps, context, labels).sample,
            "vae": lambda: networks["vae"].decode(latents / scale).sample,
            "text": lambda: networks["text_encoder"](token_ids[1:]).last_hidden_state,
        }[case.work]

    def run_inference() -> Any:
        with torch.inference_mode():
            return run()

    def to_numpy(y: Any) -> np.ndarray:
        return pixels(y) if case.work == "image" else y.float().cpu().numpy()

    synchronize = torch.cuda.synchronize if case.device == "cuda" else lambda: None
    return Workload(run_inference, to_numpy, synchronize)


def _on_one_thread(workload: Workload) -> Workload:
    def run() -> Any:
        with one_thread():
            return workload.run()

    return replace(workload, run=run)


def peer_network(name: str, model: LatentDiffusion) -> Any:
    """Return a network of diffusers or transformers; on the CPU it shares the weights' memory."""
    torch = import_peer("torch")
    config = model.config
    if name == "text_encoder":
        transformers = import_peer("transformers")
        last = config.text_encoder.vocab_size - 1
        token_ids = {"bos_token_id": 0, "eos_token_id": last, "pad_token_id": last}
        clip_config = _construct(transformers.CLIPTextConfig, config.text_encoder, **token_ids)
        network = transformers.CLIPTextModel(clip_config)
    else:
        kind, arguments = _unet(config.unet) if name == "unet" else _vae(config.kl_or_vq)
        with torch.device("meta"):  # skips the initialisation
            network = _construct(kind, getattr(config, name), **arguments)
    prefix = "text_model."  # of the keys in some versions of transformers
    strip = name == "text_encoder" and not any(k.startswith(prefix) for k in network.state_dict())
    state_dict = {
        key.removeprefix(prefix) if strip else key: torch.from_numpy(
            np.require(model.backend.to_numpy(leaf), np.float32, ["C", "W"])
        )
        for key, leaf in flatten(model.params[name]).items()
    }
    network.load_state_dict(state_dict, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _unet(config: UNetConfig) -> tuple[Any, dict[str, Any]]:
    """Return diffusers' class, and the arguments that its configuration names differently."""
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in config.attention_levels]
    # of what is added to the time embedding: pooled text and sizes (SDXL), or the last token
    sdxl = bool(config.addition_embed_type)
    width = config.projection_class_embeddings_input_dim if sdxl else config.cross_attention_dim
    return import_peer("diffusers").UNet2DConditionModel, {
        "down_block_types": down,
        "up_block_types": [block.replace("Down", "Up") for block in reversed(down)],
        "attention_head_dim": config.num_heads,  # diffusers' name for the number of heads
        "projection_class_embeddings_input_dim": width,
    }


def _vae(config: AutoencoderConfig) -> tuple[Any, dict[str, Any]]:
    blocks = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
    levels = len(config.block_out_channels)
    return import_peer("diffusers").AutoencoderKL, {k: [b] * levels for k, b in blocks.items()}


def _construct(kind: Callable[..., Any], config: object, **arguments: Any) -> Any:
    """Call `kind` with the fields of `config` that it has under the same name, and `arguments`."""
    parameters = inspect.signature(kind).parameters
    shared = {k: v for k, v in vars(config).items() if k in parameters and v != ""}
    return kind(**shared | arguments)


def pipeline(
    case: BenchmarkCase, config: ModelConfig, networks: dict[str, Any], latents: Any, token_ids: Any
) -> Callable[[], list[Image.Image]]:
    """Return a function that generates one image by `StableDiffusionPipeline` with DDIM."""
    diffusers = import_peer("diffusers")
    fields = ("beta_schedule", "beta_start", "beta_end", "steps_offset")
    betas = {field: getattr(config.scheduler, field) for field in fields}
    unused = dict.fromkeys(("tokenizer", "safety_checker", "feature_extractor"))
    scheduler = diffusers.DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False)
    pipe = diffusers.StableDiffusionPipeline(
        **networks, **unused, scheduler=scheduler, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    encode = networks["text_encoder"]

    def run() -> list[Image.Image]:
        uncond, cond = (encode(ids).last_hidden_state for ids in token_ids[:, None])
        return pipe(
            prompt_embeds=cond,
            negative_prompt_embeds=uncond,
            latents=latents,
            num_inference_steps=case.steps,
            guidance_scale=case.cfg_scale,
            height=case.size,
            width=case.size,
        ).images

    return run


def dpm_scheduler(config: ModelConfig, **options: Any) -> Any:
    """Return diffusers' DPM-Solver++ with the schedule of a model.

    Its betas are truncated where ldmref's samplers truncate them (`sigma_max`).

    Args:
        config: The model's configuration.
        **options: Other settings of the scheduler, such as `solver_order`.
    """
    alphas_cumprod = alpha_bar_from_sigma(sampling_sigmas(config.scheduler))
    betas = 1.0 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])
    return import_peer("diffusers").DPMSolverMultistepScheduler(
        num_train_timesteps=len(betas),
        trained_betas=betas.tolist(),
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[config.scheduler.prediction_type],
        timestep_spacing=config.scheduler.spacing,
        final_sigmas_type=config.scheduler.final_sigma,
        **options,
    )


def sampling_loop(
    case: BenchmarkCase, config: ModelConfig, networks: dict[str, Any], latents: Any, token_ids: Any
) -> Callable[[], list[Image.Image]]:
    """Return a function that generates one image by diffusers' networks and its DDIM.

    The embedded model adds the last token to the time embedding, which
    `StableDiffusionPipeline` cannot. The solver of order 1 is DDIM (Lu et al. 2022,
    arXiv:2211.01095, section 4.1), for any schedule.
    """
    torch = import_peer("torch")
    unet, vae, encode = (networks[name] for name in ("unet", "vae", "text_encoder"))
    scheduler = dpm_scheduler(config, solver_order=1)
    guided = case.cfg_scale != 1.0

    def run() -> list[Image.Image]:
        context = encode(token_ids if guided else token_ids[1:]).last_hidden_state
        scheduler.set_timesteps(case.steps)
        x = latents
        for t in scheduler.timesteps:
            output = unet(torch.cat([x] * len(context)), t, context, context[:, -1]).sample
            if guided:
                uncond, cond = output.chunk(2)
                output = uncond + case.cfg_scale * (cond - uncond)
            x = scheduler.step(output, t, x).prev_sample
        y = vae.decode(x / vae.config.scaling_factor).sample[0]
        rounded = ((y / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
        return [Image.fromarray(rounded.cpu().numpy())]

    return run
