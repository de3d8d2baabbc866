"""Small random models of the latent diffusion paper, made by diffusers."""

from __future__ import annotations

import diffusers
import numpy as np
import torch
import transformers
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
    LDMBertConfig,
    LDMBertModel,
)

from ldmref.backends import get_backend
from ldmref.io.diffusers.config import convert_autoencoder_config, convert_unet_config
from ldmref.io.diffusers.ldm import convert_unet2d_config
from ldmref.io.diffusers.scheduler import convert_scheduler_config
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.config import Defaults, ModelConfig, TextConfig
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import unflatten
from ldmref.models.validate import check_config

VQ = dict(
    block_out_channels=[8, 16],
    layers_per_block=1,
    norm_num_groups=4,
    latent_channels=3,
    down_block_types=["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
    up_block_types=["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
    num_vq_embeddings=32,
    scaling_factor=1.0,
)
UNET = dict(
    sample_size=8,
    in_channels=3,
    out_channels=3,
    block_out_channels=[16, 32],
    layers_per_block=1,
    down_block_types=["DownBlock2D", "AttnDownBlock2D"],
    up_block_types=["AttnUpBlock2D", "UpBlock2D"],
    attention_head_dim=8,
    norm_num_groups=8,
)
CHURCHES = dict(
    block_out_channels=[16, 16, 32],
    down_block_types=["ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    up_block_types=["ResnetUpsampleBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    downsample_type="resnet",
    upsample_type="resnet",
    resnet_time_scale_shift="scale_shift",
    attn_norm_num_groups=8,
)
CROSS = dict(
    sample_size=8,
    in_channels=3,
    out_channels=3,
    block_out_channels=[16, 32],
    layers_per_block=1,
    norm_num_groups=8,
    down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
    cross_attention_dim=24,
    attention_head_dim=2,
)
BERT = dict(
    vocab_size=30,
    d_model=24,
    encoder_layers=2,
    encoder_attention_heads=2,
    head_dim=8,
    encoder_ffn_dim=48,
    max_position_embeddings=77,
    attn_implementation="eager",
)
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "red",
    "cat",
    "##s",
    "blue",
    "a",
    ",",
    "##ed",
]
NONE = TextConfig(model_type="none", num_hidden_layers=1)
CLASSES = TextConfig(
    model_type="class",
    vocab_size=6,
    hidden_size=24,
    num_hidden_layers=1,
    num_attention_heads=1,
    max_position_embeddings=1,
)
KINDS = ("unconditional", "churches", "superres", "text2img")


def scheduler(**changes):
    return diffusers.DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.0015,
        beta_end=0.0195,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        **changes,
    )


def bert_tokenizer():
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    return transformers.BertTokenizer(vocab=vocabulary, model_max_length=77)


def heed(unet):
    """Make a random U-Net's images depend on what it is told."""
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "attn2.to_v" in name or "attn2.to_out" in name:
                parameter.mul_(30)
    return unet


def pipeline(kind):
    """Return a small random pipeline of diffusers; two have KL autoencoders, two VQ."""
    torch.manual_seed(0)
    vq = diffusers.VQModel(**VQ)
    with torch.no_grad():
        vq.quantize.embedding.weight.normal_()
    if kind in ("churches", "text2img"):
        kl = VQ | {"latent_channels": 3, "scaling_factor": 0.3}
        kl.pop("num_vq_embeddings")
        vq = diffusers.AutoencoderKL(**kl)
    if kind == "text2img":
        bert = LDMBertModel(LDMBertConfig(**BERT)).eval()
        with torch.no_grad():
            bert.model.embed_tokens.weight.normal_()
        made = diffusers.LDMTextToImagePipeline(
            vqvae=vq,
            bert=bert,
            tokenizer=bert_tokenizer(),
            unet=heed(diffusers.UNet2DConditionModel(**CROSS)),
            scheduler=scheduler(),
        )
    else:
        changes = {"churches": CHURCHES, "superres": {"in_channels": 6}}.get(kind, {})
        unet = diffusers.UNet2DModel(**UNET | changes)
        superres = kind == "superres"
        type_ = diffusers.LDMSuperResolutionPipeline if superres else diffusers.LDMPipeline
        made = type_(vqvae=vq, unet=unet, scheduler=scheduler())
    made.set_progress_bar_config(disable=True)
    return made


class Parts:
    """A U-Net and a VQ autoencoder of diffusers, and our model of them."""

    def __init__(self, text, extra, **changes):
        torch.manual_seed(1)
        cross = text.model_type == "class"
        self.unet = (
            heed(diffusers.UNet2DConditionModel(**CROSS))
            if cross
            else diffusers.UNet2DModel(**UNET | {"in_channels": 3 + extra})
        )
        self.vq = diffusers.VQModel(**VQ)
        with torch.no_grad():
            self.vq.quantize.embedding.weight.normal_()
        self.scheduler = scheduler()
        data = dict(self.unet.config)
        self.config = ModelConfig(
            name="small",
            denoiser=convert_unet_config(data) if cross else convert_unet2d_config(data),
            vae=convert_autoencoder_config(dict(self.vq.config) | {"_class_name": "VQModel"}),
            text_encoder=text,
            scheduler=convert_scheduler_config(
                {"_class_name": "DDIMScheduler"} | self.scheduler.config
            ),
            defaults=Defaults(steps=5, cfg_scale=1.0, width=24, height=16),
            **changes,
        )
        check_config(self.config)
        self.flat = {f"unet.{n}": t.numpy() for n, t in self.unet.state_dict().items()}
        self.flat |= {f"vae.{n}": t.numpy() for n, t in self.vq.state_dict().items()}

    def model(self, **more):
        self.flat |= more
        words = tokenizer_for(self.config.text_encoder)
        return LatentDiffusion(get_backend("numpy"), self.config, unflatten(self.flat), words)

    @torch.no_grad()
    def draw(self, noise, predict, steps=5):
        """Run diffusers' DDIM over `predict(x, t)`; return latents, and the image in [0, 255]."""
        self.scheduler.set_timesteps(steps)
        x = torch.tensor(noise)
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(predict(x, t), t, x).prev_sample
        image = self.vq.decode(x).sample[0].clamp(-1, 1).permute(1, 2, 0)
        return x.numpy(), np.rint((image.numpy() + 1) * 127.5)
