"""Second stages: the denoiser, and the classifier of noisy latents.

latents.py     the encoded images, in memory and on disk, and noisy batches of them
loss.py        the denoiser's losses, of diffusion and of flow matching
stage.py       the denoiser's batches and its trainer
classifier.py  the classifier's trainer
"""
