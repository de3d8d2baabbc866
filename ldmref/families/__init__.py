"""Families of models as data: what their networks take and return, under which names.

| file | holds |
|---|---|
| `network.py` | what a declaration of a network says |
| `latent_diffusion.py` | the networks of Stable Diffusion, and of latent diffusion before it |
| `beside.py` | the networks that a run may use in addition: TAESD, ControlNets, a classifier |
| `lookup.py` | find a network by its call or its function |
"""
