"""Flux.1: a transformer whose first blocks have two streams, for text and image."""

from ldmref.families.flux.config import FluxConfig as FluxConfig
