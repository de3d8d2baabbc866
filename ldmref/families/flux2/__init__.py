"""FLUX.2: a transformer whose first blocks have two streams, after one text encoder.

| file             | holds                                                            |
|------------------|------------------------------------------------------------------|
| `autoencoder.py` | the autoencoder, whose latents are normalised patches            |

Black Forest Labs 2025, github.com/black-forest-labs/flux2.
"""
