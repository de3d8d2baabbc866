"""The settings of a training.

schema.py   every setting with its type, range and default, as dataclasses; types.py: the types
file.py     recipes in TOML: `read_recipe`, `to_toml`
model.py    the model configuration that an objective trains
*.toml      the recipes that ldmref ships, by name: `ldmref train emoji-128`

The recipe of a fine-tuning is in `ldmref.training.finetune.recipe`.
"""
