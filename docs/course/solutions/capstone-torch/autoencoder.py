"""Piece 2 of the capstone in PyTorch: encoder and decoder of the variational autoencoder."""

import torch
import torch.nn.functional as F
from blocks import attention, conv, group_norm, normed, residual_block, tokens_of, upsample_nearest


def reparameterize(mean, logvar, noise):
    """Return a sample of N(mean, exp(logvar)) as a function of noise."""
    return mean + torch.exp(0.5 * logvar) * noise


def pad_bottom_right(x):
    """Return x with a row and a column of zeros after its last ones."""
    return F.pad(x, (0, 1, 0, 1))


def kl_standard_normal(mean, logvar):
    """Return D(N(mean, exp(logvar)) || N(0, 1)), entry by entry."""
    return 0.5 * (mean**2 + torch.expm1(logvar) - logvar)


def middle_of(p, x, groups, eps):
    """Return two residual blocks with self-attention over all positions between them."""
    x = residual_block(p.at("resnets.0"), x, None, groups, eps)
    a = p.at("attentions.0")
    h = tokens_of(group_norm(x, a["group_norm.weight"], a["group_norm.bias"], groups, eps))
    x = x + attention(a, h, h, 1).transpose(1, 2).reshape(x.shape)
    return residual_block(p.at("resnets.1"), x, None, groups, eps)


def encode(p, config, image):
    """Return mean and log-variance of the latent of images in [-1, 1]."""
    groups, eps = config["norm_num_groups"], config["norm_eps"]
    e = p.at("encoder")
    x = conv(e.at("conv_in"), image)
    for level in range(e.count("down_blocks")):
        block = e.at(f"down_blocks.{level}")
        for i in range(block.count("resnets")):
            x = residual_block(block.at(f"resnets.{i}"), x, None, groups, eps)
        if "downsamplers" in block:
            x = conv(block.at("downsamplers.0.conv"), pad_bottom_right(x), stride=2, pad=0)
    x = middle_of(e.at("mid_block"), x, groups, eps)
    x = conv(e.at("conv_out"), normed(e.at("conv_norm_out"), x, groups, eps))
    mean, logvar = conv(p.at("quant_conv"), x).chunk(2, dim=1)
    return mean, logvar.clamp(-30.0, 20.0)


def decode(p, config, z):
    """Return the images of latents, approximately in [-1, 1]."""
    groups, eps = config["norm_num_groups"], config["norm_eps"]
    d = p.at("decoder")
    x = conv(d.at("conv_in"), conv(p.at("post_quant_conv"), z))
    x = middle_of(d.at("mid_block"), x, groups, eps)
    for level in range(d.count("up_blocks")):
        block = d.at(f"up_blocks.{level}")
        for i in range(block.count("resnets")):
            x = residual_block(block.at(f"resnets.{i}"), x, None, groups, eps)
        if "upsamplers" in block:
            x = conv(block.at("upsamplers.0.conv"), upsample_nearest(x))
    return conv(d.at("conv_out"), normed(d.at("conv_norm_out"), x, groups, eps))
