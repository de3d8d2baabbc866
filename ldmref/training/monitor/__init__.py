"""What a training shows while it runs, in its folder.

metrics.jsonl           a line every few steps: loss, metrics, images per second
loss.png                the loss of every stage
loss_by_timestep.png    the denoiser's, in bins of t / T
reconstructions.png     images, and what the autoencoder makes of them
samples.png             images of some prompts, by the averaged weights
"""
