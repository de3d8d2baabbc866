"""Calls of diffusers' pipelines that change memory and speed, but never the image."""

from __future__ import annotations

from typing import Any

# Without effect: ldmref decodes images one by one, and its backends choose their attention.
WITHOUT_EFFECT = (
    "enable_attention_slicing", "disable_attention_slicing",
    "enable_vae_slicing", "disable_vae_slicing",
    "enable_vae_tiling", "disable_vae_tiling",
    "enable_xformers_memory_efficient_attention", "disable_xformers_memory_efficient_attention",
    "set_use_memory_efficient_attention_xformers",
    "fuse_qkv_projections", "unfuse_qkv_projections", "upcast_vae",
    "reset_device_map", "maybe_free_model_hooks", "remove_all_hooks",
)  # fmt: skip
# These also bring the pipeline to a GPU, where torch has one.
OFFLOADING = ("enable_model_cpu_offload", "enable_sequential_cpu_offload")


class MemoryCalls:
    """The calls that change memory and speed: they are accepted, and the image stays the same."""

    def __getattr__(self, name: str) -> Any:
        if name in WITHOUT_EFFECT:
            return lambda *_, **__: None
        if name in OFFLOADING:
            return self._offload
        raise AttributeError(
            f"{type(self).__name__} of ldmref.compat.diffusers has no {name!r}; "
            "docs/compat.md lists its methods"
        )

    def _offload(self, gpu_id: int | None = None, device: Any = "cuda") -> None:
        """Bring the pipeline to a GPU if torch can use one."""
        try:
            import torch
        except ImportError:
            return
        if torch.cuda.is_available():
            self.to(device if gpu_id is None else f"cuda:{gpu_id}")

    def set_progress_bar_config(self, **_: Any) -> None:
        """Accept the call: pipelines print no progress."""

    def to(self, *targets: Any, **named: Any) -> Any:
        """Move the pipeline to `targets`, or `named` ones, and return it; see `Pipeline.to`."""
        raise NotImplementedError
