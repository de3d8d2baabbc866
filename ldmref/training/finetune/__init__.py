"""Fine-tuning of a model: LoRA, textual inversion, all parameters of the denoiser, or a flow map.

finetuning_run.py      `fine_tune`
recipe.py              the recipe; defaults.py: defaults that depend on method and base
stage.py               the trainer, whose loss is that of the denoiser
adapters.py            the trained parameters of each method (low-rank updates, the vectors of a new
                       word), and their file; lora_targets.py: the layers that have updates
"""
