"""A JAX backend for ldmref; `ldmref.load(backend="jax")` finds it by its entry point."""

from ldmref_jax.backend import JaxBackend

__all__ = ["JaxBackend"]
