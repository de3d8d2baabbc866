"""Families of models as data: what their networks take and return, under which names.

| file | holds |
|---|---|
| `network.py` | what a declaration of a network says |
| `latent_diffusion.py` | the networks of Stable Diffusion, and of latent diffusion before it |
| `auxiliary.py` | auxiliary networks of a run: TAESD, ControlNets, a classifier |
| `lookup.py` | find a network by its call or its function |
"""
