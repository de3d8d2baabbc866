"""Ten networks of diffusers that ldmref has no definition of, tiny, with random parameters."""

import copy
import warnings

import diffusers
import torch

import ldmref


def rand(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ids(h, w, axes=3):
    made = torch.zeros(h, w, axes)
    made[..., -2] += torch.arange(h)[:, None]
    made[..., -1] += torch.arange(w)[None]
    return made.reshape(h * w, axes)


def mask(n, length, seen):
    made = torch.ones(n, length)
    made[-1, seen:] = 0.0
    return made


TIME = torch.tensor([721.0, 312.0])
FAMILIES = {
    "pixart": (
        lambda: diffusers.PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, num_layers=2, cross_attention_dim=16,
            sample_size=8, caption_channels=12, use_additional_conditions=False,
        ),
        lambda: {
            "hidden_states": rand(2, 4, 8, 8), "encoder_hidden_states": rand(2, 5, 12, seed=2),
            "timestep": TIME, "encoder_attention_mask": mask(2, 5, 3),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
    ),
    "sana": (
        lambda: diffusers.SanaTransformer2DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8,
            num_layers=2, num_cross_attention_heads=2, cross_attention_head_dim=8,
            cross_attention_dim=16, caption_channels=12, sample_size=6,
        ),
        lambda: {
            "hidden_states": rand(2, 4, 6, 6), "encoder_hidden_states": rand(2, 5, 12, seed=2),
            "timestep": TIME, "encoder_attention_mask": mask(2, 5, 3),
        },
    ),
    "lumina2": (
        lambda: diffusers.Lumina2Transformer2DModel(
            in_channels=4, hidden_size=48, num_layers=2, num_refiner_layers=1,
            num_attention_heads=4, num_kv_heads=2, multiple_of=16, axes_dim_rope=(4, 4, 4),
            axes_lens=(20, 16, 16), cap_feat_dim=12,
        ),
        lambda: {
            "hidden_states": rand(2, 4, 8, 6), "timestep": TIME / 1000.0,
            "encoder_hidden_states": rand(2, 5, 12, seed=2),
            "encoder_attention_mask": mask(2, 5, 3).bool(),
        },
    ),
    "chroma": (
        lambda: diffusers.ChromaTransformer2DModel(
            in_channels=8, num_layers=2, num_single_layers=2, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=12, axes_dims_rope=(2, 2, 4),
            approximator_num_channels=8, approximator_hidden_dim=16, approximator_layers=2,
        ),
        lambda: {
            "hidden_states": rand(2, 12, 8), "encoder_hidden_states": rand(2, 5, 12, seed=2),
            "timestep": TIME / 1000.0, "img_ids": ids(3, 4), "txt_ids": torch.zeros(5, 3),
        },
    ),
    "dit": (
        lambda: diffusers.DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8,
            num_embeds_ada_norm=10,
        ),
        lambda: {
            "hidden_states": rand(2, 4, 8, 8), "timestep": TIME.long(),
            "class_labels": torch.tensor([3, 7]),
        },
    ),
    "auraflow": (
        lambda: diffusers.AuraFlowTransformer2DModel(
            sample_size=8, num_mmdit_layers=1, num_single_dit_layers=2, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=12, caption_projection_dim=16,
            pos_embed_max_size=36,
        ),
        lambda: {
            "hidden_states": rand(2, 4, 8, 8), "encoder_hidden_states": rand(2, 5, 12, seed=2),
            "timestep": TIME / 1000.0,
        },
    ),
    "cogvideox": (
        lambda: diffusers.CogVideoXTransformer3DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4,
            time_embed_dim=8, text_embed_dim=12, num_layers=2, sample_width=8, sample_height=6,
            sample_frames=5, max_text_seq_length=5, use_rotary_positional_embeddings=True,
        ),
        lambda: {
            "hidden_states": rand(2, 2, 4, 6, 8), "encoder_hidden_states": rand(2, 5, 12, seed=2),
            "timestep": TIME.long(),
            "image_rotary_emb": (rand(24, 8, seed=5).cos(), rand(24, 8, seed=5).sin()),
        },
    ),
    "ltx": (
        lambda: diffusers.LTXVideoTransformer3DModel(
            in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8,
            cross_attention_dim=16, num_layers=2, caption_channels=12,
        ),
        lambda: {
            "hidden_states": rand(2, 24, 8), "encoder_hidden_states": rand(2, 5, 12, seed=2),
            "timestep": TIME, "encoder_attention_mask": mask(2, 5, 3),
            "num_frames": 2, "height": 3, "width": 4,
            "rope_interpolation_scale": (0.2, 0.5, 0.5),
        },
    ),
    "wan": (
        lambda: diffusers.WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
            text_dim=12, freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=16,
        ),
        lambda: {
            "hidden_states": rand(2, 4, 2, 6, 8), "timestep": TIME,
            "encoder_hidden_states": rand(2, 5, 12, seed=2),
        },
    ),
    "cogview4": (
        lambda: diffusers.CogView4Transformer2DModel(
            in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
            num_attention_heads=2, text_embed_dim=12, time_embed_dim=8, condition_dim=4,
            pos_embed_max_size=8, sample_size=8, rope_axes_dim=(4, 4),
        ),
        lambda: {
            "hidden_states": rand(2, 4, 8, 6), "encoder_hidden_states": rand(2, 5, 12, seed=2),
            "timestep": TIME.long(), "original_size": torch.tensor([[8.0, 6.0]] * 2),
            "target_size": torch.tensor([[8.0, 6.0]] * 2),
            "crop_coords": torch.tensor([[1.0, 3.0]] * 2),
        },
    ),
}  # fmt: skip


def make(name, seed=0):
    """Return a network of a family, each of whose parameters is random."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = FAMILIES[name][0]().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for path, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm = "norm" in path and path.endswith("weight") and parameter.ndim == 1
        scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
        parameter.data = 1.0 + 0.3 * noise if is_norm else scale * noise
    return network


def inputs(name, dtype="float32"):
    """Return the arguments of a family's network by name, floats in a format."""
    form = getattr(torch, dtype)
    return {k: cast(x, form) for k, x in FAMILIES[name][1]().items()}


def cast(value, form):
    if isinstance(value, torch.Tensor):
        return value.to(form) if value.is_floating_point() else value
    return tuple(cast(x, form) for x in value) if isinstance(value, tuple) else value


def port_of(name, change=None, dtype="float32", seed=0, **options):
    """Return the trace of a network that `change` changes, run in a format."""
    port = copy.deepcopy(make(name, seed)).to(getattr(torch, dtype))
    if change is not None:
        change(port)
    with ldmref.recording(port, call="transformer", **options) as run, torch.no_grad():
        port(**inputs(name, dtype))
    return run.trace
