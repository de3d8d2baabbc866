"""Progress lines, and the files that a training writes into its folder while it runs.

metrics.jsonl           a line every few steps: loss, metrics, images per second
loss.png                the loss of every stage
loss_by_timestep.png    the denoiser's loss in bins of t / T
reconstructions.png     images and their reconstructions
samples.png             images generated for some prompts with the averaged weights

stage.py writes them for one stage; progress.py: progress lines and means over steps; metrics.py:
the file of metrics; curves.py: plots; previews.py: preview images.
"""
