"""Single blocks of the transformers of image and text, with random weights.

A whole transformer of the published size takes 8 to 48 GB in float32; one of its blocks fits most
machines. Both sides get the same tokens of image and text, and the same embedding of the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.work import Workload
from ldmref.backends.base import Backend
from ldmref.families.flux.config import FluxConfig
from ldmref.families.flux.network import double_block, find_positions, single_block
from ldmref.families.flux.network import transformer_spec as flux_spec
from ldmref.families.flux2 import network as flux2
from ldmref.families.flux2.config import Flux2Config
from ldmref.families.flux3 import network as flux3
from ldmref.families.flux3.config import Flux3Config
from ldmref.families.flux3.positions import place_image, place_text
from ldmref.families.krea2 import network as krea2
from ldmref.families.krea2.config import Krea2Config
from ldmref.families.qwen_image_21 import network as qwen_image_21
from ldmref.families.qwen_image_21.config import QwenImage21Config
from ldmref.families.sd3.config import MMDiTConfig
from ldmref.families.sd3.network import block_spec, joint_block
from ldmref.families.z_image.config import ZImageConfig
from ldmref.families.z_image.network import block as stream_block
from ldmref.families.z_image.network import transformer_spec
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.lazy_params import CompiledNetworks, LazyParams
from ldmref.models.params import Params, Spec, flatten, init, unflatten
from ldmref.models.transformer_layers import find_waves

SEED = 1


@dataclass(frozen=True)
class MeasuredBlock:
    """A block of a transformer.

    Attributes:
        tokens: Number of tokens of the text.
        small: The preset that repositions the published size in a test run.
        spec: Returns the shapes of the block's parameters.
        apply: The block, a function of the backend, its parameters, image, text, embedding, and
            what `more` returns; its results are joined, the text first.
        more: Returns further arguments from the backend, the configuration, rows and columns of
            patches, and the text.
        peer: Returns diffusers' block without weights, and further arguments of its call, from the
            configuration, rows and columns of patches, and the number of tokens of the text.
        widths: Returns the widths of the tokens and of the embedding.
        call: Calls diffusers' block on image, text, embedding and further arguments; returns its
            results.
    """

    tokens: int
    small: str
    spec: Callable[[Any], Spec]
    apply: Callable[..., Array]
    more: Callable[..., tuple[Any, ...]]
    peer: Callable[..., tuple[Any, dict[str, Any]]]
    widths: Callable[[Any], tuple[int, int]] = lambda config: (config.width, config.width)
    call: Callable[..., Any] = lambda module, image, text, emb, **more: module(
        hidden_states=image, encoder_hidden_states=text, temb=emb, **more
    )


@dataclass(frozen=True)
class BlockInputs:
    """Host arrays for both sides, float32."""

    image: np.ndarray  # (n, rows * columns, d)
    text: np.ndarray  # (n, m, d)
    emb: np.ndarray  # (n, d) or, of Z-Image, (n, 256)


@dataclass(frozen=True)
class BlockModel:
    """One block with its parameters on a backend, {name of the block: tree}."""

    block: MeasuredBlock
    config: ModelConfig
    backend: Backend
    params: Mapping[str, Params]

    @property
    def tree(self) -> Params:
        """The parameters of the block."""
        (tree,) = self.params.values()
        return tree

    def with_backend(self, ops: Backend) -> BlockModel:
        """Return a copy that shares the parameters, on `ops`, a backend that wraps this one."""
        return replace(self, backend=ops)

    def arguments(self, inputs: BlockInputs) -> tuple[Any, ...]:
        """Return the arguments of `block.apply` after backend and parameters."""
        arrays = [self.backend.asarray(x) for x in vars(inputs).values()]
        sides = square_of(inputs.image)
        return *arrays, *self.block.more(self.backend, self.config.denoiser, sides, arrays[1])


def make_block(name: str, model: str, ops: Backend, file: Path | None = None) -> BlockModel:
    """Return a block of a preset with seeded random weights, or with those of a file."""
    from ldmref.models.presets import preset

    block = BLOCKS[name]
    config = preset(model)
    tree = unflatten(dict(TensorFile(file))) if file else init(block.spec(config.denoiser))
    return BlockModel(block, config, ops, LazyParams(ops, {name: tree}))


def save_block(block: BlockModel, file: Path) -> None:
    """Write the weights of a block on a backend of NumPy arrays."""
    tensors = flatten(block.tree)
    write_tensors(file, {name: source(tensor) for name, tensor in tensors.items()})


def make_block_inputs(model: BlockModel, size: int, batch: int = 1) -> BlockInputs:
    """Return seeded tokens of a square image of `size` pixels and of a text."""
    normal = np.random.default_rng(SEED).standard_normal
    tokens = model.config.count_tokens(size, size)
    width, width_of_emb = model.block.widths(model.config.denoiser)
    shapes = (batch, tokens, width), (batch, model.block.tokens, width), (batch, width_of_emb)
    return BlockInputs(*(normal(shape, np.float32) for shape in shapes))


def block_workload(model: BlockModel, inputs: BlockInputs) -> Workload:
    """Return ldmref's side of a case."""
    ops = model.backend
    network = CompiledNetworks().get(ops, model.block.apply, model.tree)
    arguments = model.arguments(inputs)

    def run() -> Array:
        with ops.inference():
            return network(*arguments)

    return Workload(run, lambda y: np.asarray(ops.to_numpy(y), np.float32), ops.synchronize)


def block_peer(model: BlockModel, inputs: BlockInputs) -> Workload:
    """Return the side of diffusers, with the same weights."""
    import torch

    sides = square_of(inputs.image)
    with torch.device("meta"):  # skips the initialisation
        module, more = model.block.peer(model.config.denoiser, sides, inputs.text.shape[1])
    state_dict = {
        name: torch.from_numpy(np.require(model.backend.to_numpy(x), np.float32, ["C", "W"]))
        for name, x in flatten(model.tree).items()
    }
    module.load_state_dict(state_dict, strict=True, assign=True)
    module.eval().requires_grad_(False)
    image, text, emb = map(torch.from_numpy, vars(inputs).values())

    def run() -> Any:
        with torch.inference_mode():
            return model.block.call(module, image, text, emb, **more)

    def to_numpy(results: Any) -> np.ndarray:  # text, then image, in each of diffusers' blocks
        return np.concatenate([x.numpy() for x in results], axis=1)

    return Workload(run, to_numpy)


def square_of(image: np.ndarray) -> tuple[int, int]:
    """Return rows and columns of the patches of a square image, (n, l, d)."""
    side = math.isqrt(image.shape[1])
    return side, side


# -- blocks ---------------------------------------------------------------------------------------


def _first_block(
    spec: Callable[[Any], Spec], blocks: str = "transformer_blocks"
) -> Callable[[Any], Spec]:
    """Return a function that returns the shapes of a block, which all of its kind have.

    Args:
        spec: Returns the shapes of a transformer.
        blocks: The name of these blocks.
    """

    def select(config: Any) -> Spec:
        whole: Any = spec(config)
        return whole[blocks]["0"]

    return select


def _joint(ops: Backend, p: Params, image: Array, text: Array, emb: Array, heads: int) -> Array:
    text, image = joint_block(ops, p, image, text, emb, heads)
    return ops.xp.concat([text, image], axis=1)


def _joined(block: Callable[..., tuple[Array, Array]]) -> Callable[..., Array]:
    """Return a block of Flux as a function whose results are joined."""

    def apply(
        ops: Backend,
        p: Params,
        image: Array,
        text: Array,
        emb: Array,
        positions: Array,
        dims: tuple[int, ...],
        heads: int,
    ) -> Array:
        return ops.xp.concat(block(ops, p, image, text, emb, positions, dims, heads), axis=1)

    return apply


def _positions(ops: Backend, config: FluxConfig, sides: tuple[int, int], text: Array) -> tuple:
    """Return the positions of the tokens, the channels of each axis, and the number of heads."""
    grid = ops.asarray(np.zeros((1, *sides, 1), np.float32))
    positions = find_positions(ops, grid, text)
    return positions, config.axes_dims_rope, config.num_attention_heads


def _joint_peer(config: MMDiTConfig, sides: tuple[int, int], tokens: int) -> tuple[Any, dict]:
    from diffusers.models.attention import JointTransformerBlock

    sizes = config.width, config.num_attention_heads, config.attention_head_dim
    return JointTransformerBlock(
        *sizes,
        context_pre_only=False,
        qk_norm=config.qk_norm or None,
        use_dual_attention=0 in config.dual_attention_layers,
    ), {}


def _flux_peer(kind: str) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Return a function that makes Flux' block of a class, and its rotations."""

    def peer(config: FluxConfig, sides: tuple[int, int], tokens: int) -> tuple[Any, dict]:
        import torch
        from diffusers.models.transformers import transformer_flux

        with torch.device("cpu"):
            positions = torch.zeros(tokens + math.prod(sides), 3)
            positions[tokens:, 1:] = torch.cartesian_prod(*(torch.arange(k) for k in sides))
            rotate = transformer_flux.FluxPosEmbed(10000, [*config.axes_dims_rope])
            rotations = rotate(positions)
        sizes = config.width, config.num_attention_heads, config.attention_head_dim
        return getattr(transformer_flux, kind)(*sizes), {"image_rotary_emb": rotations}

    return peer


def _place_tokens(config: ZImageConfig, sides: tuple[int, int], tokens: int) -> np.ndarray:
    """Return place, row and column of the patches of an image and of a caption, (1, l, 3)."""
    grid = np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), axis=-1).reshape(-1, 2)
    image = np.concatenate([np.full((len(grid), 1), tokens + 1), grid], axis=1)
    caption = np.zeros((tokens, 3), int)
    caption[:, 0] = 1 + np.arange(tokens)
    return np.concatenate([image, caption])[None]


def _stream(
    ops: Backend,
    p: Params,
    image: Array,
    text: Array,
    emb: Array,
    positions: Array,
    config: ZImageConfig,
) -> Array:
    joined = ops.xp.concat([image, text], axis=1)
    return stream_block(ops, p, joined, emb, positions, None, None, config)


def _stream_peer(config: ZImageConfig, sides: tuple[int, int], tokens: int) -> tuple[Any, dict]:
    import torch
    from diffusers.models.transformers.transformer_z_image import (
        RopeEmbedder,
        ZImageTransformerBlock,
    )

    with torch.device("cpu"):
        places = torch.from_numpy(_place_tokens(config, sides, tokens))[0]
        ends = [tokens + 2, *(max(side, 1) for side in sides)]
        rotations = RopeEmbedder(config.rope_theta, [*config.axes_dims], ends)(places)
    heads = config.n_heads
    module = ZImageTransformerBlock(0, config.dim, heads, heads, config.norm_eps, True)
    return module, {"freqs_cis": rotations[None]}


def _call_stream(module: Any, image: Any, text: Any, emb: Any, freqs_cis: Any) -> tuple[Any]:
    import torch

    return (module(torch.cat([image, text], dim=1), None, freqs_cis, emb),)


def _flux2_double(
    ops: Backend,
    p: Params,
    image: Array,
    text: Array,
    emb: Array,
    positions: Array,
    config: Flux2Config,
) -> Array:
    """Apply a block whose shifts, scales and gates are the embedding of the time, six times."""
    rows = ops.xp.concat([emb] * 6, axis=1)
    text, image = flux2.double_block(ops, p, image, text, rows, rows, positions, config)
    return ops.xp.concat([text, image], axis=1)


def _flux2_single(
    ops: Backend,
    p: Params,
    image: Array,
    text: Array,
    emb: Array,
    positions: Array,
    config: Flux2Config,
) -> Array:
    """Apply a block whose shift, scale and gate are the embedding of the time."""
    joined = ops.xp.concat([text, image], axis=1)
    rows = ops.xp.concat([emb] * 3, axis=1)
    return flux2.single_block(ops, p, joined, rows, positions, config)


def _flux2_positions(
    ops: Backend, config: Flux2Config, sides: tuple[int, int], text: Array
) -> tuple:
    """Return the positions of the tokens, and the configuration."""
    latents = ops.asarray(np.zeros((1, 1, *sides), np.float32))
    return flux2.find_positions(ops, latents, text), config


def _flux2_peer(kind: str) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Return a function that makes FLUX.2's block of a class, and its rotations."""

    def peer(config: Flux2Config, sides: tuple[int, int], tokens: int) -> tuple[Any, dict]:
        import torch
        from diffusers.models.transformers import transformer_flux2

        single = kind == "Flux2SingleTransformerBlock"

        class Peer(getattr(transformer_flux2, kind)):  # type: ignore[misc]
            def forward(self, temb: Any, **arguments: Any) -> Any:
                if single:
                    rows = temb.repeat(1, 3)
                    return super().forward(temb_mod=rows, split_hidden_states=True, **arguments)
                rows = temb.repeat(1, 6)
                return super().forward(temb_mod_img=rows, temb_mod_txt=rows, **arguments)

        with torch.device("cpu"):
            grid = torch.cartesian_prod(*(torch.arange(k) for k in (1, *sides, 1)))
            places = torch.cartesian_prod(*(torch.arange(k) for k in (1, 1, 1, tokens)))
            axes = [*config.axes_dims_rope]
            rotate = transformer_flux2.Flux2PosEmbed(int(config.rope_theta), axes)
            rotations = rotate(torch.cat([places, grid]))
        sizes = config.width, config.num_attention_heads, config.attention_head_dim
        return Peer(*sizes, mlp_ratio=config.mlp_ratio), {"image_rotary_emb": rotations}

    return peer


def _flux3(
    ops: Backend,
    p: Params,
    image: Array,
    text: Array,
    emb: Array,
    cos: Array,
    sin: Array,
    heads: int,
) -> Array:
    """Apply a block whose shift, scale and gate are the embedding of the time."""
    rows = ops.xp.concat([emb] * 3, axis=1)[:, None, :]
    return ops.xp.concat(
        flux3.single_block(ops, p, image, text, rows, rows, cos, sin, None, heads), axis=1
    )


def _flux3_waves(ops: Backend, config: Flux3Config, sides: tuple[int, int], text: Array) -> tuple:
    """Return cosines and sines of the positions of the tokens, and the number of heads."""
    latents = ops.asarray(np.zeros((1, 1, *sides), np.float32))
    positions = ops.xp.concat([place_text(ops, text), place_image(ops, latents)], axis=1)
    waves = find_waves(positions, config.axes_dims_rope, config.rope_theta)
    return *waves, config.num_attention_heads


def _flux3_peer(config: Flux3Config, sides: tuple[int, int], tokens: int) -> tuple[Any, dict]:
    import torch
    from diffusers.models.transformers import transformer_flux3

    with torch.device("cpu"):
        grid = torch.cartesian_prod(*(torch.arange(k) * 0.5 for k in (1, *sides, 1)))
        places = torch.cartesian_prod(*(torch.arange(k) * 1.0 for k in (1, 1, 1, tokens)))
        rotate = transformer_flux3.Flux3PosEmbed(int(config.rope_theta), [*config.axes_dims_rope])
        rotations = rotate(torch.cat([places, grid]))
    sizes = config.width, config.num_attention_heads, config.attention_head_dim
    block = transformer_flux3.Flux3SingleTransformerBlock(*sizes, mlp_ratio=config.mlp_ratio)
    return block, {"image_rotary_emb": rotations}


def _call_flux3(module: Any, image: Any, text: Any, emb: Any, image_rotary_emb: Any) -> Any:
    rows = emb.repeat(1, 3)[:, None]
    return module(image, text, rows, rows, image_rotary_emb)


def _krea2(
    ops: Backend,
    p: Params,
    image: Array,
    text: Array,
    emb: Array,
    positions: Array,
    config: Krea2Config,
) -> Array:
    """Apply a block whose scales, shifts and gates are the embedding of the time, six times."""
    rows = ops.xp.concat([emb] * 6, axis=1)[:, None, :]
    joined = ops.xp.concat([text, image], axis=1)
    return krea2.modulated_block(ops, p, joined, rows, positions, None, config)


def _krea2_positions(
    ops: Backend, config: Krea2Config, sides: tuple[int, int], text: Array
) -> tuple:
    """Return the positions of the tokens, and the configuration."""
    grid = ops.asarray(np.zeros((1, *sides, 1), np.float32))
    return find_positions(ops, grid, text), config


def _krea2_peer(config: Krea2Config, sides: tuple[int, int], tokens: int) -> tuple[Any, dict]:
    import torch
    from diffusers.models.transformers import transformer_krea2

    with torch.device("cpu"):
        places = torch.zeros(tokens + math.prod(sides), 3)
        places[tokens:, 1:] = torch.cartesian_prod(*(torch.arange(k) for k in sides))
        rotate = transformer_krea2.Krea2RotaryPosEmbed(
            int(config.rope_theta), [*config.axes_dims_rope]
        )
        rotations = rotate(places)
    heads = config.num_attention_heads, config.num_key_value_heads
    sizes = config.width, config.intermediate_size, *heads, config.norm_eps
    return transformer_krea2.Krea2TransformerBlock(*sizes), {"image_rotary_emb": rotations}


def _call_krea2(module: Any, image: Any, text: Any, emb: Any, image_rotary_emb: Any) -> tuple[Any]:
    import torch

    rows = emb.repeat(1, 6)[:, None]
    return (module(torch.cat([text, image], dim=1), rows, image_rotary_emb),)


def _qwen_image_21(
    ops: Backend,
    p: Params,
    image: Array,
    text: Array,
    emb: Array,
    text_waves: Array,
    waves: Array,
    config: QwenImage21Config,
) -> Array:
    """Apply a block whose scales and gates, of text and image, are the embedding, four times."""
    rows = ops.xp.concat([ops.xp.concat([emb, emb[:1]], axis=0)] * 4, axis=1)
    joined = ops.xp.concat([text, image], axis=1)
    return qwen_image_21.block(ops, p, joined, rows, text_waves, waves, None, None, config)


def _qwen_image_21_waves(
    ops: Backend, config: QwenImage21Config, sides: tuple[int, int], text: Array
) -> tuple:
    """Return the waves of text and image, and the configuration."""
    latents = ops.asarray(np.zeros((1, 1, *sides), np.float32))
    sequence = qwen_image_21.find_sequence(ops, config, latents, text, None, False)
    return sequence.text_waves, sequence.waves, config


def _qwen_image_21_peer(
    config: QwenImage21Config, sides: tuple[int, int], tokens: int
) -> tuple[Any, dict]:
    import torch
    from diffusers.models.transformers import transformer_qwenimage21 as theirs

    with torch.device("cpu"):
        is_image = torch.arange(tokens + math.prod(sides)) >= tokens
        rotate = theirs.QwenImage21Rope(10000, [*config.axes_dims_rope])
        rotations = rotate([(1, *sides)], is_image, torch.device("cpu"))
    sizes = config.width, config.num_attention_heads, config.attention_head_dim
    block = theirs.QwenImage21TransformerBlock(*sizes, config.mlp_ratio, config.eps)
    processor: Any = theirs.QwenImage21AttnProcessor()  # not in the union of diffusers' types
    block.attn.set_processor(processor)
    more = {"rotary_emb": rotations, "target_token_mask": is_image, "segments": [(0, tokens, True)]}
    return block, more


def _call_qwen_image_21(module: Any, image: Any, text: Any, emb: Any, **more: Any) -> tuple[Any]:
    import torch

    rows = torch.cat([emb, emb[:1]]).repeat(1, 4)
    return (module(torch.cat([text, image], dim=1), rows, **more),)


BLOCKS = {
    "joint_block": MeasuredBlock(
        333,  # of CLIP and T5
        "sd3-tiny",
        lambda config: block_spec(config, 0),
        _joint,
        lambda ops, config, sides, text: (config.num_attention_heads,),
        _joint_peer,
    ),
    "double_block": MeasuredBlock(
        256,
        "flux-tiny",
        _first_block(flux_spec),
        _joined(double_block),
        _positions,
        _flux_peer("FluxTransformerBlock"),
    ),
    "single_block": MeasuredBlock(
        256,
        "flux-tiny",
        _first_block(flux_spec, "single_transformer_blocks"),
        _joined(single_block),
        _positions,
        _flux_peer("FluxSingleTransformerBlock"),
    ),
    "stream_block": MeasuredBlock(
        128,
        "z-image-tiny",
        _first_block(transformer_spec, "layers"),
        _stream,
        lambda ops, config, sides, text: (
            ops.asarray(_place_tokens(config, sides, text.shape[1]), ops.state_dtype),
            config,
        ),
        _stream_peer,
        lambda config: (config.dim, config.time_dim),
        _call_stream,
    ),
    "flux2_double_block": MeasuredBlock(
        512,
        "flux2-tiny",
        flux2.double_spec,
        _flux2_double,
        _flux2_positions,
        _flux2_peer("Flux2TransformerBlock"),
    ),
    "flux2_single_block": MeasuredBlock(
        512,
        "flux2-tiny",
        flux2.single_spec,
        _flux2_single,
        _flux2_positions,
        _flux2_peer("Flux2SingleTransformerBlock"),
    ),
    "flux3_single_block": MeasuredBlock(
        480,  # six windows
        "flux3-tiny",
        _first_block(flux3.transformer_spec, "single_transformer_blocks"),
        _flux3,
        _flux3_waves,
        _flux3_peer,
        call=_call_flux3,
    ),
    "krea2_block": MeasuredBlock(
        512,
        "krea-2-tiny",
        _first_block(krea2.transformer_spec),
        _krea2,
        _krea2_positions,
        _krea2_peer,
        call=_call_krea2,
    ),
    "qwen_image_21_block": MeasuredBlock(
        256,
        "qwen-image-2.1-tiny",
        _first_block(qwen_image_21.transformer_spec),
        _qwen_image_21,
        _qwen_image_21_waves,
        _qwen_image_21_peer,
        call=_call_qwen_image_21,
    ),
}
