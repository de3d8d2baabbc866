"""Files that the readers of the pages have: checkpoints, images, folders, a module."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import stand_ins
from blocks import ROOT
from PIL import Image
from safetensors.numpy import save_file

from ldmref.apps.cli.main import main
from ldmref.io.native import save_folder
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.model import model_spec
from ldmref.models.params import init
from ldmref.models.presets import preset
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.words import word_tokenizer

HUB = "home/.cache/huggingface/hub"
CLIP = "models--openai--clip-vit-large-patch14"
SD15 = "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
MODULE = "from ldmref.math import q_posterior, q_sample\n\n__all__ = ['q_posterior', 'q_sample']\n"
RECIPE = """\
[data]
source = "my-images"
size = 16
[model]
preset = "tiny"
[autoencoder.optimizer]
batch_size = 2
[autoencoder.budget]
steps = 2
[diffusion.optimizer]
batch_size = 2
[diffusion.budget]
steps = 2
"""


class Materials:
    """Makes each thing once, in `folder`, when a page first asks for it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def put(self, names: tuple[str, ...], work: Path) -> None:
        """Copy things into a working folder, under the names that the page gives them."""
        for name in names:
            kind, _, asked = name.partition(" as ")
            made = self.folder / kind
            if not made.exists():
                made.parent.mkdir(parents=True, exist_ok=True)
                getattr(self, "make_" + kind)(made)
            to = work / (asked or kind)
            to.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if made.is_dir() else shutil.copyfile)(made, to)

    def make_examples(self, path: Path) -> None:
        shutil.copytree(ROOT / "examples", path, ignore=shutil.ignore_patterns("__pycache__"))

    def make_module(self, path: Path) -> None:
        path.mkdir()
        (path / "diffusion.py").write_text(MODULE)

    def make_recipe(self, path: Path) -> None:
        path.write_text(RECIPE)

    def make_images(self, path: Path) -> None:
        path.mkdir()
        for i, name in enumerate(stand_ins.NAMES):
            Image.new("RGB", (128, 128), (40 * i, 100, 200)).save(path / f"{name}.png")

    def make_emoji_folder(self, path: Path) -> None:
        """Make a folder of ldmref: preset `tiny` with random weights."""
        config = preset("tiny")
        words = PromptTokenizer(word_tokenizer(stand_ins.NAMES, 512), 16)
        save_folder(path, config, init(model_spec(config), 0), [words], np.float32)

    def make_vocabulary(self, path: Path) -> None:
        stand_ins.write_vocabulary(path)

    def make_clip_cache(self, path: Path) -> None:
        """Hugging Face's cache with CLIP's vocabulary."""
        stand_ins.write_vocabulary(path / CLIP / "snapshots" / "0")

    def make_hub_cache(self, path: Path) -> None:
        """Hugging Face's cache with the repository of Stable Diffusion 1.5."""
        repository = path / SD15
        commit = "0" * 40
        self.put(("diffusers",), self.folder / "for_hub")
        shutil.copytree(self.folder / "for_hub/diffusers", repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)

    def make_folder(self, path: Path) -> None:
        """Make a folder of ldmref: Stable Diffusion 1.5 with random weights, in tiny sizes."""
        self.put(("vocabulary",), self.folder / "for_folder")
        config = stand_ins.small_sd15()
        source = self.folder / "for_folder/vocabulary"
        tokens = tokenizer_for(config.text_encoder, source)
        save_folder(path, config, init(model_spec(config), 0), [tokens], np.float32)

    def make_single_file(self, path: Path) -> None:
        self.put(("folder",), self.folder / "for_file")
        file = path.with_suffix(".safetensors")
        assert main(["convert", str(self.folder / "for_file/folder"), str(file)]) == 0
        file.rename(path)

    def make_pickle(self, path: Path) -> None:
        torch = pytest.importorskip("torch")
        from safetensors.torch import load_file

        self.put(("single_file",), self.folder / "for_pickle")
        tensors = load_file(self.folder / "for_pickle/single_file")
        torch.save({"state_dict": tensors}, path)

    def make_diffusers(self, path: Path) -> None:
        """Make a folder of diffusers: Stable Diffusion 1.5 with random weights, in tiny sizes."""
        diffusers = pytest.importorskip("diffusers")
        transformers = pytest.importorskip("transformers")
        self.put(("vocabulary",), self.folder / "for_diffusers")
        config = stand_ins.small_sd15()
        text = config.text_encoder
        end = text.vocab_size - 1
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=[16, 32],
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
            cross_attention_dim=text.hidden_size,
            attention_head_dim=2,
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=[8, 16],
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
        )
        encoder = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=text.vocab_size,
                hidden_size=text.hidden_size,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=77,
                bos_token_id=end - 1,
                eos_token_id=end,
                pad_token_id=end,
            )
        )
        vocabulary = self.folder / "for_diffusers/vocabulary"
        diffusers.StableDiffusionPipeline(
            unet=unet,
            vae=vae,
            text_encoder=encoder,
            tokenizer=transformers.CLIPTokenizer.from_pretrained(vocabulary),
            scheduler=diffusers.PNDMScheduler(
                skip_prk_steps=True,
                steps_offset=1,
                beta_schedule="scaled_linear",
                beta_start=0.00085,
                beta_end=0.012,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(path)

    def make_taesd(self, path: Path) -> None:
        diffusers = pytest.importorskip("diffusers")
        diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ).save_pretrained(path)

    def make_lora(self, path: Path) -> None:
        shape = stand_ins.small_sd15().unet
        normal = np.random.default_rng(0).standard_normal
        down = normal((2, shape.in_channels, 3, 3)).astype(np.float32)
        up = normal((shape.block_out_channels[0], 2, 1, 1)).astype(np.float32)
        name = "lora_unet_conv_in"
        save_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, path)

    def make_word(self, path: Path) -> None:
        width = stand_ins.small_sd15().text_encoder.hidden_size
        save_file({"<cat-toy>": np.zeros(width, np.float32)}, path)
