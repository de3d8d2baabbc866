"""First stages: autoencoders of all kinds, whose loss is a sum of weighted terms.

terms.py      the terms, each a formula of `ldmref.math`
forward.py    one batch through encoder, latents (exact, sampled, quantized) and decoder
codebook.py   a codebook's moving average, and the revival of unused codes
adversary.py  the patch discriminator
features.py   the network of the perceptual term, trained first
stage.py      the trainer, and the encoded data set
metrics.py    what a trained first stage reaches
"""
