"""Build vllm-omni's networks without its server: one process, on the CPU, in float32.

It has no platform for processors without a graphics card. Its attention is then that of PyTorch,
by its own class `SDPAImpl`.
"""

from __future__ import annotations

from collections.abc import Callable
from tempfile import mkstemp
from typing import TypeVar

from vllm.config import DeviceConfig, VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm_omni.diffusion.attention.backends.sdpa import SDPAImpl
from vllm_omni.platforms import current_omni_platform

Net = TypeVar("Net")
PYTORCH = "vllm_omni.diffusion.attention.backends.sdpa.SDPABackend"

current_omni_platform.get_diffusion_attn_backend_cls = lambda *_, **__: PYTORCH
SDPAImpl.forward = SDPAImpl.forward_cuda  # which calls PyTorch alone


def build(make: Callable[[], Net]) -> Net:
    """Return a network that is built in vLLM's configuration for one process."""
    config = VllmConfig(device_config=DeviceConfig(device="cpu"))
    with set_current_vllm_config(config):
        init_distributed_environment(1, 0, f"file://{mkstemp()[1]}", 0, backend="gloo")
        initialize_model_parallel(1, 1)
        return make()
