"""PyTorch: modules are seen by hooks, and functions of torch as they are called."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from ldmref.trace.frameworks.framework import Framework, RecordedModules
from ldmref.trace.name_maps import NameMap
from ldmref.trace.selection import Selection
from ldmref.trace.torch_hooks import refuse_compiled
from ldmref.trace.torch_modules import record_program


class TorchFramework(Framework):
    """PyTorch."""

    name = "torch"

    def accepts(self, module: object) -> bool:
        """Return whether an object is a `torch.nn.Module`."""
        return isinstance(module, torch.nn.Module)

    def record(
        self,
        program: RecordedModules,
        folder: str | Path,
        names: NameMap | None = None,
        selection: Selection | None = None,
        overwrite: bool = False,
    ) -> AbstractContextManager[Any]:
        """Return a context that records the calls of modules, as `Framework.record`."""
        for name, module in program.modules.items():
            refuse_compiled("the module" if len(program.modules) == 1 else name, module)
        return record_program(program, folder, names, selection, overwrite)


TORCH = TorchFramework()
