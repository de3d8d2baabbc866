"""What a training shows while it runs, in its folder.

metrics.jsonl           a line every few steps: loss, metrics, pictures per second
loss.png                the loss of every stage
loss_by_timestep.png    the denoiser's, in bins of t / T
reconstructions.png     pictures, and what the autoencoder makes of them
samples.png             pictures of some prompts, by the averaged weights
"""
