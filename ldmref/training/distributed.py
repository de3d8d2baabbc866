"""One training on several processes, which PyTorch calls ranks; `torchrun` starts them.

Every rank computes its part of each batch, and the gradients are averaged, so the step equals that
of a single process. With DistributedDataParallel (Li et al. 2020, arXiv:2006.15704) each rank has
the whole network. FSDP2 shards parameters, averages and optimizer states of networks that do not
fit (Zhao et al. 2023, arXiv:2304.11277). Only the first rank writes files and reports.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = timedelta(hours=24)  # the other ranks wait while the first one encodes all images

P = ParamSpec("P")
T = TypeVar("T")


@contextlib.contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the ranks that `torchrun` describes in the environment; yield this rank's device.

    Without that description there is one rank and no group.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield device
        return
    cuda = torch.device(device).type == "cuda"
    if cuda:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    try:
        yield device
    finally:
        dist.destroy_process_group()
        # PyTorch's threads for the group end with the last reference to it, which its own caches
        # may hold. To release a tensor they take the GIL, and abort if the interpreter is closing
        # (pytorch/pytorch#190489). Collecting garbage here lets them take the GIL before that.
        gc.collect()


def ranks() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this rank, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def any_rank(flag: bool, device: str) -> bool:
    """Return whether the flag is set on any rank; every rank must call this."""
    if ranks() == 1:
        return flag
    flags = torch.tensor(float(flag), device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def gather_from_ranks(value: T) -> list[T]:
    """Return the value of each rank; every rank must call this."""
    values = [value] * ranks()
    if ranks() > 1:
        dist.all_gather_object(values, value)
    return values


def average_over_ranks(x: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor over the ranks; every rank must call this."""
    if ranks() == 1:
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / ranks()


def on_first_rank(function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call a function on the first rank; the others wait until it has returned."""
    if rank() == 0:
        function(*args, **kwargs)
    if ranks() > 1:
        dist.barrier()


def by_first_rank(function: Callable[[T], None]) -> Callable[[T], None]:
    """Return the function on the first rank, and one that does nothing on the others."""
    return function if rank() == 0 else lambda argument: None


@contextlib.contextmanager
def first_rank_first() -> Iterator[None]:
    """Run the block on the first rank, then on the others, which find the files that it wrote."""
    if rank() > 0:
        dist.barrier()
    try:
        yield
    finally:
        if rank() == 0 and ranks() > 1:
            dist.barrier()


class TrainedNetwork(torch.nn.Module):
    """Parameters as a module whose forward is a function of them, which PyTorch can distribute."""

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], function: Callable[..., Any]):
        super().__init__()
        self.names = list(parameters)
        self.function = function
        self.weights = torch.nn.ParameterList(parameters.values())

    def named(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters by name: this rank's shards, or within `forward` all of them."""
        return dict(zip(self.names, self.weights, strict=True))

    def forward(self, *args: object) -> Any:
        """Call the function with the parameters."""
        return self.function(self.named(), *args)


def parallelized(network: TrainedNetwork, shard: bool, unused: bool) -> torch.nn.Module:
    """Return the module to call instead of the network, which averages gradients over the ranks.

    `unused`: some parameters have no gradient in some steps, which PyTorch has to search for.
    """
    if ranks() == 1:
        return network
    if shard:
        fully_shard(network)  # in place
        return network
    return DistributedDataParallel(network, find_unused_parameters=unused)


@contextlib.contextmanager
def averaging(module: torch.nn.Module, now: bool) -> Iterator[None]:
    """Average the gradients of a backward pass over the ranks now, or with those of a later one."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(now)
    if isinstance(module, DistributedDataParallel) and not now:
        with module.no_sync():
            yield
    else:
        yield


def full_tensor(x: torch.Tensor) -> torch.Tensor:
    """Return the tensor unsharded; every rank must call this."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def sharded_like(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return a tensor that every rank has in full, sharded like `other` and on its device."""
    x = x.to(other.device)
    if isinstance(other, DTensor) and x.shape == other.shape:
        return distribute_tensor(x, other.device_mesh, other.placements, src_data_rank=None)
    return x


def local_shard(x: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a tensor."""
    return x.to_local() if isinstance(x, DTensor) else x
