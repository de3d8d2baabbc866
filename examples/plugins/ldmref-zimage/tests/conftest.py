"""A small Z-Image of diffusers, and the package as pip would install it."""

from __future__ import annotations

import importlib.metadata
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent / "pyproject.toml"

if not importlib.metadata.entry_points(group="ldmref.families", name="z-image"):
    # the package is not installed: write what pip would write
    site = Path(tempfile.mkdtemp(prefix="ldmref-zimage-"))
    metadata = site / "ldmref_zimage-0.1.0.dist-info"
    metadata.mkdir()
    about = "Metadata-Version: 2.1\nName: ldmref-zimage\nVersion: 0.1.0\n"
    (metadata / "METADATA").write_text(about)
    groups = tomllib.loads(PROJECT.read_text())["project"]["entry-points"]
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    sys.path.append(str(site))


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory):
    """Return a folder with a small vocabulary of Qwen's form, as transformers writes it."""
    from ldmref_zimage.tokens import MARKS, WORDS
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        normalizers,
        pre_tokenizers,
        trainers,
    )
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = ["user\na red cat on a table, painted by an assistant\n", "the blue house of a dog"]
    tokenizer.train_from_iterator(texts * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=MARKS[0], eos_token=MARKS[2], padding_side="right"
    )
    fast.chat_template = (  # that of Qwen3, of one message and without tools
        "{%- for message in messages %}"
        "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
        "{%- endfor %}{{- '<|im_start|>assistant\n' }}"
    )
    path = tmp_path_factory.mktemp("tokenizer")
    fast.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def pipe(vocabulary):
    """Return a random `ZImagePipeline` for small images."""
    import torch
    import transformers
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        ZImagePipeline,
        ZImageTransformer2DModel,
    )

    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=24,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=20,
        axes_dims=[4, 4, 4],
        axes_lens=[640, 32, 32],
    )
    text = transformers.Qwen3Config(
        vocab_size=400,
        hidden_size=20,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    encoder = transformers.Qwen3ForCausalLM(text)
    for network in (transformer, encoder):  # padding tokens are 0 at first, scores tiny
        for parameter in network.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 12],
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    found = ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae.eval(),
        encoder.eval(),
        transformers.AutoTokenizer.from_pretrained(vocabulary),
        transformer.eval(),
    )
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="session")
def folder(pipe, tmp_path_factory):
    """Return the folder that diffusers writes."""
    path = tmp_path_factory.mktemp("z-image")
    pipe.save_pretrained(path)
    return path
