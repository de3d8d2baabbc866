"""Forty faults in networks that ldmref does not know, where each is, and its cause if it has one.

A fault changes a live module: an attribute, the arguments or the result of a submodule, or what a
function of torch computes within one submodule.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

Tensor = torch.Tensor
ADDS = (torch.add, Tensor.add, Tensor.__radd__)
CHUNKS = (torch.chunk, Tensor.chunk)
SDPA = (F.scaled_dot_product_attention,)


class Change(TorchFunctionMode):
    """Calls `change(func, args, kwargs)` for calls of some functions.

    Those count whose arguments match, and of these only the ones of the numbers `only`, if any.
    """

    def __init__(self, functions, change, only=(), matching=lambda args: True):
        super().__init__()
        self.functions, self.change, self.only, self.count = functions, change, only, 0
        self.matching = matching

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in self.functions or not self.matching(args):
            return func(*args, **kwargs)
        self.count += 1
        if self.only and self.count not in self.only:
            return func(*args, **kwargs)
        return self.change(func, args, kwargs)


def within(path, functions, change, *only, matching=lambda args: True):
    """Let functions of torch compute something else within a submodule."""

    def apply(network):
        module = network.get_submodule(path)
        forward = module.forward

        def run(*args, **kwargs):
            with Change(functions, change, only, matching):
                return forward(*args, **kwargs)

        module.forward = run

    return apply


def around(path, change):
    """Let a submodule compute `change(forward, args, kwargs)`."""

    def apply(network):
        module = network.get_submodule(path)
        forward = module.forward
        module.forward = lambda *args, **kwargs: change(forward, args, kwargs)

    return apply


def setting(path, name, value):
    def apply(network):
        setattr(network.get_submodule(path), name, value)

    return apply


def parameter(path, name, change):
    def apply(network):
        module = network.get_submodule(path)
        old = getattr(module, name)
        new = change(network, old)
        setattr(module, name, None if new is None else torch.nn.Parameter(new, requires_grad=False))

    return apply


def exchanged(i, j):
    """Exchange two parts of a chunk."""

    def change(func, args, kwargs):
        parts = list(func(*args, **kwargs))
        parts[i], parts[j] = parts[j], parts[i]
        return tuple(parts)

    return change


def of_number(number):
    """Match sums that have a constant."""
    return lambda args: any(isinstance(x, int | float) and x == number for x in args)


def without_one(func, args, kwargs):
    return func(*[0 if isinstance(x, int | float) else x for x in args], **kwargs)


def of_tokens(args):
    """Match sums of two arrays of tokens."""
    same = all(torch.is_tensor(x) and x.ndim == 3 for x in args)
    return same and args[0].shape == args[1].shape


def attention(change):
    def changed(func, args, kwargs):
        named = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | kwargs
        return func(**change(named))

    return changed


def halves(func, args, kwargs):
    """Pair the first half with the second one."""
    x = args[0]
    return func(x.reshape(*x.shape[:-2], 2, -1).transpose(-1, -2).contiguous())


def unpaired(func, args, kwargs):
    y = func(*args, **kwargs)
    return y.transpose(-1, -2).reshape(y.shape)


def per_head(forward, args, kwargs):
    """Normalize each of two heads by its own mean square."""
    module = forward.__self__
    x = args[0].float().unflatten(-1, (2, -1))
    y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.eps)
    y = y.flatten(-2)
    return (y * module.weight if module.weight is not None else y).to(args[0].dtype)


def second(func, args, kwargs):
    return args[1] * 1


@dataclass(frozen=True)
class Case:
    """Faults of a network.

    Attributes:
        family: The network.
        changes: Functions that change it.
        layers: The layers of which a row may differ; each has at least one that does.
        causes: Words of the cause by layer; the faults of others have none in the table.
        alike: Layers that may differ as well: where the same wrong array is read again.
    """

    family: str
    changes: tuple
    layers: tuple
    causes: dict = field(default_factory=dict)
    alike: tuple = ()

    def __call__(self, network):
        for change in self.changes:
            change(network)

    def __add__(self, other):
        layers = (*self.layers, *other.layers)
        causes = {**self.causes, **other.causes}
        changes = (*self.changes, *other.changes)
        return Case(self.family, changes, layers, causes, (*self.alike, *other.alike))


def case(family, change, *layers, alike=(), **causes):
    """Return a case of one fault; `cause` is that of all layers."""
    found = {layer: causes["cause"] for layer in layers} if causes else {}
    return Case(family, (change,), layers, found, alike)


SINGLE = {
    "pixart: eps of norm2": case(
        "pixart", setting("transformer_blocks.1.norm2", "eps", 1e-3),
        "transformer_blocks.1.norm2", cause="eps 0.001",
    ),
    "pixart: exact GELU": case(
        "pixart", setting("transformer_blocks.0.ff.net.0", "approximate", "none"),
        "transformer_blocks.0.ff.net.0.gelu", cause="exact GELU",
    ),
    "pixart: no mask of the text": case(
        "pixart", within("transformer_blocks.1.attn2", SDPA,
                         attention(lambda k: {**k, "attn_mask": None})),
        "transformer_blocks.1.attn2.attention", cause="mask is missing",
    ),
    "pixart: gate and shift of the MLP exchanged": case(
        "pixart", within("transformer_blocks.0", CHUNKS, exchanged(3, 5)),
        "transformer_blocks.0.ff", "transformer_blocks.0.add~2",
        cause="parts 3 and 5 of 6 are exchanged",
    ),
    "pixart: sine before cosine": case(
        "pixart", setting("adaln_single.emb.time_proj", "flip_sin_to_cos", False),
        "adaln_single.emb.time_proj", cause=r"\[sin, cos\]",
    ),
    "sana: keys without ReLU": case(
        "sana", within("transformer_blocks.0.attn1", (F.relu,), lambda f, a, k: a[0] * 1, 2),
        "transformer_blocks.0.attn1.to_out.0", cause="no activation instead of ReLU",
    ),
    "sana: eps of the caption's norm": case(
        "sana", setting("caption_norm", "eps", 1e-2), "caption_norm", cause="eps 0.01",
    ),
    "sana: gate and value exchanged": case(
        "sana", within("transformer_blocks.1.ff", CHUNKS, exchanged(0, 1)),
        "transformer_blocks.1.ff.silu~1", "transformer_blocks.1.ff.conv_point",
        cause="parts 0 and 1 of 2 are exchanged",
    ),
    "sana: no 1 beside the last scale": case(
        "sana", within("norm_out", ADDS, without_one, matching=of_number(1)),
        "norm_out", cause="1 is not added",
    ),
    "sana: flipped kernel": case(
        "sana", parameter("transformer_blocks.0.ff.conv_depth", "weight",
                          lambda net, w: w.flip(-1, -2)),
        "transformer_blocks.0.ff.conv_depth", cause="flipped",
    ),
    "lumina2: eps of norm_q": case(
        "lumina2", setting("layers.0.attn.norm_q", "eps", 1e-2),
        "layers.0.attn.norm_q", cause="eps 0.01",
    ),
    "lumina2: halves are rotated": case(
        "lumina2", lambda net: (
            within("layers.1.attn", (torch.view_as_complex,), halves)(net),
            within("layers.1.attn", (torch.view_as_real,), unpaired)(net),
        ), "layers.1.attn.attention", cause="halves are rotated instead of neighbours",
    ),
    "lumina2: gate without tanh": case(
        "lumina2", within("layers.0", (Tensor.tanh,), lambda f, a, k: a[0] * 1, 1),
        "layers.0.ffn_norm1", cause="the gate does not go through tanh",
    ),
    "lumina2: keys of other heads": case(
        "lumina2", within("layers.0.attn", (Tensor.repeat,),
                          lambda f, a, k: f(*a, **k).transpose(2, 3).contiguous().transpose(2, 3)
                          .roll(1, 2), 1),
        "layers.0.attn.attention",
    ),
    "chroma: no scale of the scores": case(
        "chroma", within("transformer_blocks.0.attn", SDPA,
                         attention(lambda k: {**k, "scale": 1.0})),
        "transformer_blocks.0.attn.attention", cause="the scale .* is missing",
    ),
    "chroma: the MLP before the attention": case(
        "chroma", within("single_transformer_blocks.0", (torch.cat,),
                         lambda f, a, k: f(list(a[0])[::-1], *a[1:], **k)),
        "single_transformer_blocks.0.proj_out", cause="parts",
    ),
    "chroma: the rotation backwards": case(
        "chroma", around("transformer_blocks.1.attn", lambda f, a, k: f(*a, **{
            **k, "image_rotary_emb": (k["image_rotary_emb"][0], -k["image_rotary_emb"][1])})),
        "transformer_blocks.1.attn.attention", cause="the rotation has the other direction",
    ),
    "chroma: bias of the text's values": case(
        "chroma", parameter("transformer_blocks.0.attn.add_v_proj", "bias",
                            lambda net, b: 0 * b),
        "transformer_blocks.0.attn.add_v_proj", cause="bias is missing",
    ),
    "dit: keys and values exchanged": case(
        "dit", within("transformer_blocks.1.attn1", SDPA,
                      attention(lambda k: {**k, "key": k["value"], "value": k["key"]})),
        "transformer_blocks.1.attn1.attention", cause="k and v are swapped",
    ),
    "dit: shift and scale at the end exchanged": case(
        "dit", lambda net: setattr(net, "forward", _final_exchanged(net)),
        "proj_out_2", cause="parts 0 and 1 of 2 are exchanged",
    ),
    "dit: classes from 1": case(
        "dit", around("transformer_blocks.0.norm1.emb.class_embedder",
                      lambda f, a, k: f(a[0] + 1, *a[1:], **k)),
        "transformer_blocks.0.norm1.emb.class_embedder.embedding_table",
        alike=("transformer_blocks.0.norm1.emb.class_embedder.embedding_table~1",),
    ),
    "dit: weights of the sibling": case(
        "dit", lambda net: net.transformer_blocks[0].attn1.to_k.load_state_dict(
            net.transformer_blocks[0].attn1.to_q.state_dict()),
        "transformer_blocks.0.attn1.to_k", cause="equals the output of",
    ),
    "auraflow: image before text": case(
        "auraflow", within("joint_transformer_blocks.0.attn", (torch.cat,),
                           lambda f, a, k: f(list(a[0])[::-1], *a[1:], **k)),
        "joint_transformer_blocks.0.attn.attention", cause="parts",
        alike=("joint_transformer_blocks.0.attn.to_out.0",
               "joint_transformer_blocks.0.attn.to_add_out"),
    ),
    "auraflow: no residual": case(
        "auraflow", within("single_transformer_blocks.0", ADDS, second, 2, matching=of_tokens),
        "single_transformer_blocks.0", cause="equals the input of",
    ),
    "auraflow: SiLU is missing": case(
        "auraflow", within("single_transformer_blocks.1.ff", (F.silu,), lambda f, a, k: a[0] * 1),
        "single_transformer_blocks.1.ff.out_projection",
        cause="no activation instead of SiLU",
    ),
    "cogvideox: keys are not rotated": case(
        "cogvideox", within("transformer_blocks.0.attn1", (torch.stack,),
                            lambda f, a, k: 0 * f(*a, **k), 2),
        "transformer_blocks.0.attn1.add~1",
    ),
    "cogvideox: eps of the last norm": case(
        "cogvideox", setting("norm_final", "eps", 1e-3), "norm_final", cause="eps 0.001",
    ),
    "cogvideox: gates of text and image exchanged": case(
        "cogvideox", within("transformer_blocks.1.norm1", CHUNKS, exchanged(2, 5)),
        "transformer_blocks.1.norm1", cause="parts 2 and 5 of 6 are exchanged",
    ),
    "ltx: a norm for each head": case(
        "ltx", around("transformer_blocks.0.attn1.norm_q", per_head),
        "transformer_blocks.0.attn1.norm_q", cause="of each of 2 heads",
    ),
    "ltx: SiLU instead of GELU": case(
        "ltx", within("transformer_blocks.1.ff.net.0", (F.gelu,), lambda f, a, k: F.silu(a[0])),
        "transformer_blocks.1.ff.net.0", cause="SiLU instead of tanh GELU",
    ),
    "ltx: the mask is inverted": case(
        "ltx", within("transformer_blocks.0.attn2", SDPA, attention(
            lambda k: {**k, "attn_mask": (k["attn_mask"] > -1.0).to(k["query"].dtype) * -1e4})),
        "transformer_blocks.0.attn2.attention",
        cause="mask is inverted|bias has the other sign",  # which hides what the mask does not
    ),
    "wan: the norm before cross attention is skipped": case(
        "wan", around("blocks.1.norm2", lambda f, a, k: a[0] * 1),
        "blocks.1.norm2", cause="blocks.1.norm2 is skipped",
    ),
    "wan: frequencies of the time are shifted": case(
        "wan", setting("condition_embedder.timesteps_proj", "downscale_freq_shift", 1),
        "condition_embedder.timesteps_proj", cause="frequency shift 1",
    ),
    "wan: halves are paired": case(
        "wan", within("blocks.0.attn1", (Tensor.unbind,),
                      lambda f, a, k: a[0].reshape(*a[0].shape[:-2], 2, -1).unbind(-2), 1),
        "blocks.0.attn1.attention",
    ),
    "wan: no 1 beside the scale of the MLP": case(
        "wan", within("blocks.1", ADDS, without_one, 2, matching=of_number(1)),
        "blocks.1.ffn", cause="1 is not added",
    ),
    "cogview4: theta": case(
        "cogview4", setting("rope", "theta", 256.0), "rope", cause="theta 256",
    ),
    "cogview4: bias of the queries": case(
        "cogview4", parameter("transformer_blocks.0.attn1.to_q", "bias", lambda net, b: None),
        "transformer_blocks.0.attn1.to_q", cause="bias is missing",
    ),
    "cogview4: crop and size exchanged": case(
        "cogview4", around("time_condition_embed", lambda f, a, k: f(
            a[0], a[1], a[3], a[2], *a[4:], **k)),
        "time_condition_embed.condition_proj~1", "time_condition_embed.condition_proj~2",
    ),
    "cogview4: the scale of the modulation is that of the shift": case(
        "cogview4", within("transformer_blocks.1.norm1", CHUNKS, exchanged(0, 2)),
        "transformer_blocks.1.norm1", cause="parts 0 and 2 of 12 are exchanged",
    ),
    "cogview4: halves of the rotation": case(
        "cogview4", within("transformer_blocks.0.attn1", (Tensor.neg,), lambda f, a, k: a[0] * 1),
        "transformer_blocks.0.attn1.add", "transformer_blocks.0.attn1.add~1",
        cause="the sign is not changed",
    ),
}  # fmt: skip


def _final_exchanged(network):
    forward = network.forward

    def run(*args, **kwargs):
        mode = Change(
            CHUNKS, lambda f, a, k: exchanged(0, 1)(f, a, k) if a[1] == 2 else f(*a, **k), ()
        )
        with mode:
            return forward(*args, **kwargs)

    return run


def both(*names):
    first, *others = (SINGLE[name] for name in names)
    for other in others:
        first = first + other
    return first


SEVERAL = {
    " and ".join(names): both(*names)
    for names in (
        ("pixart: eps of norm2", "pixart: exact GELU", "pixart: no mask of the text"),
        ("pixart: sine before cosine", "pixart: gate and shift of the MLP exchanged"),
        ("sana: keys without ReLU", "sana: eps of the caption's norm", "sana: flipped kernel"),
        ("lumina2: eps of norm_q", "lumina2: halves are rotated"),
        ("chroma: no scale of the scores", "chroma: the rotation backwards"),
        ("dit: keys and values exchanged", "dit: classes from 1"),
        ("auraflow: SiLU is missing", "auraflow: image before text"),
        ("cogvideox: eps of the last norm", "cogvideox: gates of text and image exchanged"),
        ("ltx: a norm for each head", "ltx: the mask is inverted"),
        ("cogview4: theta", "cogview4: bias of the queries", "cogview4: halves of the rotation"),
    )
}
