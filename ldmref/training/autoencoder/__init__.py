"""First stages: autoencoders of all kinds, whose loss is a sum of weighted terms.

objective.py  the recipe's weights and options
terms.py      the terms, each a formula of `ldmref.math`, and the metrics of a trained first stage
forward.py    one batch through encoder, latents (exact, sampled, quantized) and decoder
features.py   the network of the perceptual term, trained first
stage.py      the trainer, the patch discriminator, and a codebook's moving average
"""
