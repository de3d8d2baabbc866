"""Training: autoencoders, denoisers and classifiers from images, and fine-tuning of models.

`train` follows a recipe. Each call below is one level down:

training_run.py `train`: check the recipe, read the images, lock the folder
pipeline.py     `train_stages`: the stages in their order, each on the result of the one before it
context.py      what all stages of one training share
stage.py        `train_stage`: one stage, resumed from its checkpoint, saved and shown while it runs
trainer.py      `Trainer`: one parameter tree, its optimizers and its moving average, step by step

autoencoder/    the loss of a first stage, term by term; its network for perceptual features
diffusion/      the denoiser's loss, the encoded images, and the classifier of noisy latents
finetune/       `fine_tune`: LoRA, textual inversion, full fine-tuning, distillation
distill/        a flow map that learns the runs of a model: its steps, its student, its loss
recipes/        the settings as dataclasses, their TOML files, and the recipes that ldmref ships
monitor/        progress lines, metrics.jsonl, plots and preview images
setup.py        checks before the start, the images, the folder and its lock, and whether a
                training may continue from its checkpoint
batches.py      the random batches of a step, which may be computed in equal parts
family_rules.py parameters of a family that begin at zero, are computed, or not for Muon
prefetch.py     batches that other processes prepare before their steps
compiled.py     networks of a training as compiled graphs
loss.py         the loss of a step, and the error if it is not finite
optimizers.py   AdamW and Muon, and the learning rates
checkpoint.py   checkpoint files
classes.py      the classes of the images
observe.py      an observer of the steps; step_trace.py: the one that records them as a trace
distributed.py  several processes: gradients averaged, parameters replicated or sharded

The data sets are in `ldmref.datasets`. The names in `__all__` are public and follow the deprecation
policy; everything else in this package may change in any version. Importing it loads no library;
PyTorch is loaded by the functions that need it, and by `Trainer` and `Loss`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.support.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.datasets.config import DataConfig as DataConfig
    from ldmref.datasets.loading import load_dataset as load_dataset
    from ldmref.training.batches import Part as Part
    from ldmref.training.family_rules import TrainingRules as TrainingRules
    from ldmref.training.finetune.finetuning_run import fine_tune as fine_tune
    from ldmref.training.finetune.recipe import FineTuneRecipe as FineTuneRecipe
    from ldmref.training.loss import Loss as Loss
    from ldmref.training.monitor.progress import TrainingProgress as TrainingProgress
    from ldmref.training.recipes.file import read_recipe as read_recipe
    from ldmref.training.recipes.file import to_toml as to_toml
    from ldmref.training.recipes.schema import OptimizerConfig as OptimizerConfig
    from ldmref.training.recipes.schema import Recipe as Recipe
    from ldmref.training.trainer import Trainer as Trainer
    from ldmref.training.training_run import train as train

__getattr__, __dir__, __all__ = export_lazily(__name__)
