"""Mistakes of a student who writes the capstone, and the words of the help that names each.

A row is (file, a line of the answer, what a student may write instead, the piece that is wrong,
words of the hint).
"""

SUMS = """    h = layer_norm(x, norms[0]["weight"], norms[0]["bias"], 1e-5)
    x = x + attention(p.at("attn1"), h, h, heads)
    h = layer_norm(x, norms[1]["weight"], norms[1]["bias"], 1e-5)
    x = x + attention(p.at("attn2"), h, context, heads)
    h = layer_norm(x, norms[2]["weight"], norms[2]["bias"], 1e-5)
    value, gate = np.split(linear(p.at("ff.net.0.proj"), h), 2, axis=-1)
    return x + linear(p.at("ff.net.2"), value * gelu(gate))
"""
NORMS_LAST = """    x = x + attention(p.at("attn1"), x, x, heads)
    x = layer_norm(x, norms[0]["weight"], norms[0]["bias"], 1e-5)
    x = x + attention(p.at("attn2"), x, context, heads)
    x = layer_norm(x, norms[1]["weight"], norms[1]["bias"], 1e-5)
    value, gate = np.split(linear(p.at("ff.net.0.proj"), x), 2, axis=-1)
    x = x + linear(p.at("ff.net.2"), value * gelu(gate))
    return layer_norm(x, norms[2]["weight"], norms[2]["bias"], 1e-5)
"""
KEPT = """            x = layer(block, i, x, heads[level])
            skips.append(x)
"""
KEPT_EARLY = """            skips.append(
                residual_block(block.at(f"resnets.{i}"), x, emb, groups, eps)
            )
            x = layer(block, i, x, heads[level])
"""
HEADS = "return y.reshape(*y.shape[:2], heads, -1).transpose(0, 2, 1, 3)"

MISTAKES = [
    # -- piece 1
    ("blocks", '8 + int.from_bytes(data[:8], "little")', 'int.from_bytes(data[:8], "little")',
     "read_weights", "offsets count from the end of the header"),
    ("blocks", "silu(emb))[:, :, None, None]", "emb)[:, :, None, None]",
     "residual_block", "the time gets no SiLU before time_emb_proj"),
    ("blocks", "return h + (conv(p.at", "return h + 0 * (conv(p.at",
     "residual_block", "x is not added at the end"),
    ("blocks", 'normed(p.at("norm1"), x, groups, eps)', 'normed(p.at("norm1"), x, groups, 1e-6)',
     "residual_block", "epsilon is 1e-06, whatever eps says"),
    ("blocks", 'if "conv_shortcut" in p else x', "if False else x",
     "residual_block", "x is added through conv_shortcut"),
    ("blocks", "value * gelu(gate)", "gate * gelu(value)",
     "attention_block", "ff multiplies gates by gelu(values)"),
    ("blocks", 'p["norm.bias"], groups, 1e-6)', 'p["norm.bias"], groups, 1e-5)',
     "attention_block", "epsilon of GroupNorm is 1e-05; here it is 1e-6"),
    ("blocks", "return x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)",
     "return x.reshape(x.shape[0], -1, x.shape[1])",
     "attention_block", "shape (n, c, h, w) to (n, c, h w), then transpose"),
    ("blocks", "[x, skips.pop()]", "[skips.pop(), x]",
     "unet", "skip connections come before x"),
    ("blocks", "skips.pop()", "skips.pop(0)",
     "unet", "takes the last one left"),
    ("blocks", "axis=1), heads[-1 - level])", "axis=1), heads[level])",
     "unet", "so the way up begins with the last"),
    ("blocks", "context[:, -1]", "context[:, 0]",
     "unet", "class_embedding reads the prompt's first token"),
    ("blocks", 'conv(p.at("conv_shortcut"), x) if',
     'conv(p.at("conv_shortcut"), normed(p.at("norm1"), x, groups, eps)) if',
     "residual_block", "conv_shortcut reads what conv1 reads"),
    ("blocks", HEADS, "return y.reshape(len(y), heads, y.shape[1], -1)",
     "attention_block", "heads are cut by a reshape alone"),
    ("blocks", HEADS, "return y.reshape(*y.shape[:2], -1, heads).transpose(0, 2, 1, 3)",
     "attention_block", "heads is taken for the channels of a head"),
    ("blocks", "tokens.transpose(0, 2, 1).reshape(x.shape)", "tokens.reshape(x.shape)",
     "attention_block", "tokens become an image without a transpose"),
    ("blocks", SUMS, SUMS.replace("h = ", "x = ").replace("h, h,", "x, x,").replace(" h,", " x,")
     .replace(" h)", " x)"),
     "attention_block", "are added to the normed tokens"),
    ("blocks", SUMS, NORMS_LAST,
     "attention_block", "LayerNorm comes after each sum"),
    ("blocks", 'heads = config["num_heads"]', 'heads = config["unet"]["num_heads"]',
     "unet", 'here p is weights.at("unet") and config is config["unet"]'),
    ("blocks", "context[:, -1]", "context.mean(axis=1)",
     "unet", "class_embedding reads the mean of the tokens"),
    ("blocks", 'conv(block.at("downsamplers.0.conv"), x, stride=2)',
     'conv(block.at("downsamplers.0.conv"), np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1))), 2, 0)',
     "unet", "the way down pads as the encoder does"),
    ("blocks", 'conv(block.at("upsamplers.0.conv"), upsample_nearest(x))',
     'upsample_nearest(conv(block.at("upsamplers.0.conv"), x))',
     "unet", "the way up convolves before it doubles a grid"),
    ("blocks", KEPT, KEPT_EARLY,
     "unet", "a skip connection is kept before the attention"),
    ("blocks", "x = layer(middle, 0, x, heads[-1])",
     'x = residual_block(middle.at("resnets.0"), x, emb, groups, eps)',
     "unet", "the middle has no attention"),
    ("blocks", 'normed(p.at("conv_norm_out"), x, groups, eps)', "x",
     "unet", "GroupNorm and SiLU before conv_out are left out"),
    # -- piece 2
    ("autoencoder", "np.clip(logvar, -30.0, 20.0)", "0.5 * logvar",
     "encode", "the log-variance is halved"),
    ("autoencoder", "np.clip(logvar, -30.0, 20.0)", "logvar",
     "encode", "the log-variance is not clipped"),
    ("autoencoder", "pad_bottom_right(x), stride=2, pad=0", "x, stride=2",
     "encode", "the encoder pads all four sides"),
    ("autoencoder", 'conv(d.at("conv_in"), conv(p.at("post_quant_conv"), z))',
     'conv(d.at("conv_in"), z)',
     "decode", "post_quant_conv is left out"),
    ("autoencoder", 'd = p.at("decoder")', 'd, z = p.at("decoder"), z / config["scaling_factor"]',
     "decode", "z is divided by the scaling factor"),
    ("autoencoder", "np.clip(logvar, -30.0, 20.0)", "np.exp(0.5 * logvar)",
     "encode", "a standard deviation is returned"),
    ("autoencoder", 'h = group_norm(x, a["group_norm.weight"], a["group_norm.bias"], groups, eps)',
     "h = x", "decode", "the attention of the middle has no GroupNorm"),
    ("autoencoder", 'return conv(d.at("conv_out"), normed(d.at("conv_norm_out"), x, groups, eps))',
     'return np.tanh(conv(d.at("conv_out"), normed(d.at("conv_norm_out"), x, groups, eps)))',
     "decode", "tanh is applied to the image"),
    ("autoencoder", 'return conv(d.at("conv_out"), normed(d.at("conv_norm_out"), x, groups, eps))',
     'return conv(d.at("conv_out"), normed(d.at("conv_norm_out"), x, groups, eps)).clip(-1, 1)',
     "decode", "the image is clipped"),
    # -- piece 3
    ("training", "gradient = 2.0 *", "gradient = -2.0 *",
     "train", "the loss rises from the start: steps go up the gradient"),
    ("training", "        x0 = draw(batch)", "        x0 = x0 if step > 1 else draw(batch)",
     "train", "draws a fresh batch in each step"),
    ("training", "rng.integers(len(alpha_bar), size=batch)", "np.full(batch, rng.integers(100))",
     "train", "a whole batch has one timestep"),
    ("training", "rng.integers(len(alpha_bar), size=batch)", "rng.integers(50, size=batch)",
     "train", "50 of 100 are never drawn"),
    ("training", "eps, alpha_bar).mean())", "eps, np.sqrt(alpha_bar)).mean())",
     "train", "the root of alpha_bar is taken twice"),
    ("training", "np.sqrt(1.0 - a) * eps", "(1.0 - a) * eps",
     "train", "noise is multiplied by 1 - alpha_bar, not by its root"),
    ("training", "rng.integers(len(alpha_bar), size=batch)", "np.zeros(batch, int)",
     "train", "all examples have the timestep 0: Algorithm 1 draws t for each example"),
    ("training", "falling = 0.5 * (1.0 + math.cos(math.pi * step / steps))", "falling = 10.0",
     "train", "let the learning rate fall to 0"),
    ("training", "eps, alpha_bar).mean())", "eps, alpha_bar).mean() * 2)",
     "train", "this looks like the sum over the coordinates"),
    ("training", "rng.integers(len(alpha_bar), size=batch)",
     "rng.integers(len(alpha_bar) - 1, size=batch)",
     "train", "1 of 100 are never drawn: 99. Upper ends are excluded"),
    ("training", "eps, alpha_bar).mean())", "eps, np.roll(alpha_bar, 1)).mean())",
     "train", "xt has the noise of t - 1, and features reads t"),
    ("training", "eps = rng.standard_normal(x0.shape)",
     "eps = np.random.default_rng(0).standard_normal(x0.shape)",
     "train", "all steps have the same noise"),
    ("training", '(predicted["eps"] - eps) / eps.size', '(predicted["eps"] - x0) / eps.size',
     "train", "the layer has learned to predict x0; its target is the noise"),
    ("training", "batch=256", "batch=2",
     "train", "the gradient of 2 examples in a step is mostly noise"),
    # -- piece 4
    ("sampling", "cond, uncond = x0_from_v", "uncond, cond = x0_from_v",
     "generate", "with and without the prompt are exchanged"),
    ("sampling", "(x - x0)", "(x + x0)",
     "generate", "Euler's step adds x0 to x"),
    ("sampling", 'x / config["vae"]["scaling_factor"]', "x",
     "generate", "not divided by the scaling factor"),
    ("sampling", "uncond + scale * (cond - uncond)", "(1 + scale) * cond - scale * uncond",
     "generate", "the scale is that of the paper"),
    ("sampling", "np.repeat(x * np.sqrt(a), 2", "np.repeat(x, 2",
     "generate", "the U-Net reads x itself"),
    ("sampling", "first * np.sqrt(1.0 + sigmas[0] ** 2)", "first",
     "generate", "noise is not multiplied by the root of 1 + sigma^2"),
    ("sampling", "first * np.sqrt(1.0 + sigmas[0] ** 2)", "first * sigmas[0]",
     "generate", "noise is multiplied by sigma at the start"),
    ("sampling", "np.arange(1000.0))", "np.arange(1.0, 1001.0))",
     "generate", "timesteps count from 1"),
    ("sampling", "np.full(2, t, np.float32)", "np.full(2, sigma, np.float32)",
     "generate", "the U-Net reads sigma in place of the timestep"),
    ("sampling", "cond, uncond = x0_from_v(xt, v, a)", "cond, uncond = v",
     "generate", "the U-Net's output is taken for x0"),
    ("sampling", "x0 + sigma_next / sigma * (x - x0)", "x + (sigma_next - sigma) * (x - x0)",
     "generate", "Euler's step lacks a division by sigma"),
    ("sampling", 'x / config["vae"]["scaling_factor"]', 'x * config["vae"]["scaling_factor"]',
     "generate", "latents are multiplied by the scaling factor"),
    ("sampling", "np.clip(decode(weights.at(\"vae\"), config[\"vae\"], z), -1.0, 1.0)",
     "decode(weights.at(\"vae\"), config[\"vae\"], z)",
     "generate", "pixels are not clipped"),
]  # fmt: skip

# The same, in the answers in PyTorch.
MISTAKES_IN_TORCH = [
    ("blocks", "torch.cat([x, skips.pop()], dim=1)", "torch.cat([skips.pop(), x], dim=1)",
     "unet", "skip connections come before x"),
    ("autoencoder", "mean, logvar = conv(p.at", "logvar, mean = conv(p.at",
     "encode", "mean and log-variance are exchanged"),
    ("training", "        optimizer.zero_grad()\n", "",
     "train", "gradients of earlier steps are added up"),
    ("training", "        optimizer.step()\n", "",
     "train", "the loss does not fall: the layer's weights are not changed"),
    ("sampling", "v = unet(weights", "v = -unet(weights",
     "generate", "the U-Net's output has the wrong sign"),
]  # fmt: skip
