"""Judge networks of published ports with kits, and measure what their errors change.

A script builds a port's network at the size of a kit, loads the kit's weights into it, runs it on
the kit's inputs within `ldmref.recording`, and calls `judge`. `run.py` runs the scripts.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from ldmref.io.compvis.keys import original_autoencoder_table
from ldmref.io.key_table import to_compvis
from ldmref.locate import diff_modules, diff_traces
from ldmref.models.params import flatten
from ldmref.passport import make_kit, read_kit
from ldmref.trace import Trace, load_trace

KITS = "PORT_KITS"  # the variable that says where kits are kept for the next script

AUTOENCODER = "vae"  # the network's name in kits


class KitInputs:
    """A kit, and what its run gave each network.

    Args:
        name: The name of the kit, such as "z-image".

    Attributes:
        folder: The folder of the kit, which is one of diffusers.
        model: The kit's model.
        run: The kit's run, in float64.
    """

    def __init__(self, name: str):
        self.folder = Path(os.environ.get(KITS) or tempfile.mkdtemp()) / name
        if not self.folder.exists():
            make_kit(name, self.folder, wrong=False)
        self.model = read_kit(self.folder).model()
        self.run = load_trace(self.folder / "trace")

    def config(self, part: str) -> dict[str, Any]:
        """Return the configuration of a network, as diffusers or transformers have it."""
        return json.loads((self.folder / part / "config.json").read_text("utf-8"))

    def call(self, name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the inputs of a call by role, and its first output."""
        entry = self.run.find(name)
        assert entry is not None, name
        return self.run.read_inputs(entry), next(iter(self.run.read_outputs(entry).values()))

    def calls(self, network: str) -> list[str]:
        """Return the names of a network's calls."""
        return [call for call in self.run.calls if call.partition(".")[0] == network]

    def weights(self, part: str) -> dict[str, np.ndarray]:
        """Return the weights of a network by the names of diffusers or transformers."""
        files = (self.folder / part).glob("*.safetensors")
        return {name: x for file in files for name, x in load_file(file).items()}

    def original(self, part: str = "transformer") -> dict[str, np.ndarray]:
        """Return the weights of the makers' file, by the makers' names.

        Args:
            part: The network that the file holds, where makers publish one for each.
        """
        files = [*(self.folder / "checkpoint").glob("*.safetensors")]
        (file,) = [file for file in files if file.stem == part or len(files) == 1]
        if part != AUTOENCODER or len(files) == 1:
            return load_file(file)
        # The kit has it under the names of diffusers.
        table = original_autoencoder_table(self.model.config.vae)
        return to_compvis(flatten(self.model.params[AUTOENCODER]), table)


def distance(found: Any, expected: np.ndarray) -> float:
    """Return the largest difference, relative to the largest value."""
    return float(np.abs(np.array(found) - expected).max() / np.abs(expected).max())


def judge(network: str, run: Trace, original: Any, errors: Mapping[str, float]) -> None:
    """Print what ldmref says of a recorded network as a line of JSON.

    Args:
        network: What ran, and whether something of it was repaired.
        run: The recording.
        original: The kit, or modules of PyTorch by the names of calls.
        errors: Independent of ldmref's verdict: the differences from right outputs, by output.
    """
    of_kit = isinstance(original, KitInputs)
    report = diff_traces(run, original.model) if of_kit else diff_modules(run, original)
    faults: dict[str, list[str]] = {}
    for row in report.faults:
        layer = ".".join(part for part in row.layer.split(".") if not part.isdecimal())
        words = row.cause.partition(" in ")[0] or "no cause"
        faults.setdefault(words, []).append(layer)
    named = {words: [len(layers), *sorted({*layers})] for words, layers in faults.items()}
    print(json.dumps({
        "network": network,
        "layers": len({(row.call, row.layer) for row in report.rows if row.layer}),
        "verdict": report.verdict,
        "faults": named,
        "conventions": [note.rpartition(": ")[2] for note in report.notes if "conventions" in note],
        "errors": {name: float(f"{error:.1e}") for name, error in errors.items()},
    }))  # fmt: skip
