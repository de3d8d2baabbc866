"""The paper's own networks, layer for layer, against diffusers in float64."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
import torch
from checkpoint_folders import load_diffusers
from closeness import close
from ldm import KINDS, WORDS, bert_tokenizer, pipeline

from ldmref.backends import get_backend
from ldmref.errors import CorruptModelError, InputError
from ldmref.io.compvis.keys import compvis_table
from ldmref.io.diffusers.ldm import convert_unet2d_config
from ldmref.io.key_table import to_compvis, to_native
from ldmref.models.autoencoder import decode, encode
from ldmref.models.layers import attention_block
from ldmref.models.params import unflatten
from ldmref.models.text import text_encoder
from ldmref.models.unet import unet
from ldmref.prompts.wordpiece import wordpiece_tokenizer


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def theirs(kind):
    return pipeline(kind)


@pytest.fixture(scope="module")
def folder(theirs, kind, tmp_path_factory):
    path = tmp_path_factory.mktemp("ldm") / kind
    theirs.save_pretrained(path, safe_serialization=True)
    return path


@pytest.mark.parametrize("t,bound", [([0.0, 0.0], 1e-10), ([3.0, 900.5], 1e-5)])
def test_unet(ours, theirs, ops, t, bound):
    """diffusers embeds the time in float32 whatever the type, which is exact at t = 0 only."""
    config, params = ours
    draw = np.random.default_rng(0).standard_normal
    x = draw((2, config.unet.in_channels, 8, 12))
    t = np.asarray(t)
    context = draw((2, 7, config.unet.cross_attention_dim)) if config.text_encoders else None
    inputs = [torch.tensor(a) for a in (x, t, context) if a is not None]
    with torch.no_grad():
        want = theirs.unet.double()(*inputs).sample
    theirs.unet.float()
    states = None if context is None else ops.asarray(context)
    got = unet(ops, params.unet, config.unet, ops.asarray(x), ops.asarray(t), states)
    close(got, want, ops, bound)


def test_autoencoder(ours, theirs, ops):
    config, params = ours
    draw = np.random.default_rng(1)
    image = draw.uniform(-1, 1, (2, 3, 16, 24))
    z = draw.standard_normal((2, 3, 8, 12))
    vae = theirs.vqvae.double()
    with torch.no_grad():
        coded = vae.encode(torch.tensor(image))
        want = vae.decode(torch.tensor(z)).sample
    theirs.vqvae.float()
    mean, logvar = encode(ops, params.vae, config.vae, ops.asarray(image))
    if config.vae.codebook_size:
        close(mean, coded.latents, ops)
        assert (ops.to_numpy(ops.xp.exp(0.5 * logvar)) == 0).all()
    else:
        close(mean, coded.latent_dist.mean, ops)
        close(logvar, coded.latent_dist.logvar, ops)
    close(decode(ops, params.vae, config.vae, ops.asarray(z)), want, ops)


def test_a_vq_decoder_sees_codes_only(ours, ops):
    config, params = ours
    if not config.vae.codebook_size:
        pytest.skip("KL")
    codes = ops.to_numpy(params.vae.quantize.embedding.weight)
    near = np.abs(codes[:, None] - codes[None]).max(axis=2)
    small = 0.2 * near[near > 0].min()
    z = codes[np.arange(32).reshape(1, 4, 8)].transpose(0, 3, 1, 2)
    a, b = (decode(ops, params.vae, config.vae, ops.asarray(y)) for y in (z, z + small))
    assert (ops.to_numpy(a) == ops.to_numpy(b)).all()


@pytest.mark.parametrize("kind", ["text2img"], indirect=True)
@pytest.mark.parametrize("skip", [0, 1])
def test_ldmbert(ours, theirs, ops, skip):
    config, params = ours
    ids = np.random.default_rng(0).integers(0, 30, (2, 77))
    bert = theirs.bert.double()
    with torch.no_grad():
        states = bert(torch.tensor(ids), output_hidden_states=True, return_dict=True).hidden_states
        want = states[-1] if skip == 0 else bert.model.layer_norm(states[-2 - skip + 1])
    theirs.bert.float()
    close(
        text_encoder(ops, params.text_encoder, config.text_encoder, ops.asarray(ids), skip),
        want,
        ops,
    )


def test_there_and_back(folder):
    config, flat, _ = load_diffusers(folder)
    table = compvis_table(config)
    back = to_native(to_compvis(flat, table), table)
    assert set(back) == set(flat)
    assert all((back[name] == flat[name]).all() for name in flat)


@pytest.mark.parametrize("kind", ["unconditional"], indirect=True)
@pytest.mark.parametrize(
    "prefix,name",
    [
        ("input_blocks.3.1", "down_blocks.1.attentions.0"),
        ("middle_block.1", "mid_block.attentions.0"),
        ("output_blocks.1.1", "up_blocks.0.attentions.1"),
    ],
)
def test_query_key_and_value_lie_head_by_head(folder, prefix, name):
    """A file's attention block (QKVAttentionLegacy, from its definition) gives what ours does."""
    ops = get_backend("numpy", dtype="float64")
    config, flat, _ = load_diffusers(folder)
    flat = {name: np.asarray(a, np.float64) for name, a in flat.items()}
    file = to_compvis(flat, compvis_table(config))
    start = f"model.diffusion_model.{prefix}."
    heads = 4
    x = np.random.default_rng(0).standard_normal((2, 32, 4, 6))
    block = {n.removeprefix(start): torch.tensor(a) for n, a in file.items() if n.startswith(start)}
    assert block["qkv.weight"].shape == (96, 32, 1) and config.unet.num_heads[-1] == heads
    y = torch.tensor(x).reshape(2, 32, 24)
    h = torch.nn.functional.group_norm(y, 8, block["norm.weight"], block["norm.bias"], 1e-5)
    qkv = torch.nn.functional.conv1d(h, block["qkv.weight"], block["qkv.bias"])
    q, k, v = qkv.reshape(2 * heads, 24, 24).split(8, dim=1)
    weight = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / 8**0.5, dim=-1)
    h = torch.einsum("bts,bcs->bct", weight, v).reshape(2, 32, 24)
    h = torch.nn.functional.conv1d(h, block["proj_out.weight"], block["proj_out.bias"])
    start = f"unet.{name}."
    p = unflatten({n.removeprefix(start): a for n, a in flat.items() if n.startswith(start)})
    close(attention_block(ops, p, x, heads, 8, 1e-5), (y + h).reshape(x.shape), ops)


def test_word_pieces(tmp_path):
    theirs = bert_tokenizer()
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    theirs.save_pretrained(tmp_path / "tokenizer")
    prompts = [
        "a red cat",
        "",
        "Cats,reded  BLUE",
        "r\u00e9d zebra",
        "cat " * 100,
        "a\u4e2dcat\x00",
    ]
    want = theirs(prompts, padding="max_length", max_length=77, truncation=True)["input_ids"]
    for source in (tmp_path / "vocab.txt", tmp_path / "tokenizer", tmp_path):
        ids, warnings = wordpiece_tokenizer(source).encode(prompts)
        assert ids.tolist() == want
    assert any("zebra" in text for text in warnings)
    assert any("102" in text or "100 tokens" in text for text in warnings)
    ids, warnings = wordpiece_tokenizer(tmp_path).encode(["cat [SEP] cat"])
    assert (ids == WORDS.index("[SEP]")).sum() == 1 and "[SEP]" in warnings[0]
    with pytest.raises(InputError, match="vocabulary of BERT"):
        wordpiece_tokenizer(tmp_path / "nowhere")
    with pytest.raises(InputError, match="vocabulary of BERT"):
        wordpiece_tokenizer(None)
    (tmp_path / "bad.json").write_text('{"model": {"type": "BPE", "vocab": {}}}')
    with pytest.raises(CorruptModelError, match="word pieces"):
        wordpiece_tokenizer(tmp_path / "bad.json")


@pytest.mark.parametrize(
    "change",
    [
        {"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]},
        {"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]},
        {"downsample_type": "resnet"},
        {"add_attention": False},
        {"flip_sin_to_cos": False},
        {"num_class_embeds": 10},
        {"attn_norm_num_groups": 4},
    ],
)
def test_other_unets_are_refused(change):
    data = dict(pipeline("unconditional").unet.config)
    assert convert_unet2d_config(data).num_heads == (2, 4)
    with pytest.raises(CorruptModelError):
        convert_unet2d_config(data | change)
