"""The interfaces through which every case of the table is run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fault_cases import COMMAND_LINE, HTTP, PYTHON, TINY, Case
from fault_http import can_express, post
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.declare import flag_names
from ldmref.errors import LdmrefError
from ldmref.models.model import LatentDiffusion
from ldmref.modes.registry import MODES

DEFAULTS = {"prompt": "cat", "steps": 1, "seed": 0}
FLAGS = {"config": "--model-config"}


@dataclass(frozen=True)
class Outcome:
    """The answer of an interface: an error's code with its exit code or status, or images."""

    code: str = ""
    exit_code: int = 0
    status: int = 0
    images: int = 0
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """The surroundings of a case: `work` is the working folder, `inputs` holds its files."""

    work: Path
    inputs: Path
    temporary: Path
    model: LatentDiffusion
    model_folder: Path
    capfd: Any
    client: Any

    def resolve(self, value: Any) -> Any:
        """Return a value; files are made by calling the function that stands for them."""
        if value is TINY:
            return self.model_folder
        if isinstance(value, tuple):
            return tuple(self.resolve(one) for one in value)
        return value(self.inputs) if callable(value) else value

    def parameters(self, case: Case) -> dict[str, Any]:
        """Return the request's parameters, with defaults that make it short."""
        known = MODES[case.mode].parameters
        defaults = {name: value for name, value in DEFAULTS.items() if name in known}
        return {k: self.resolve(v) for k, v in (defaults | dict(case.parameters)).items()}

    def files(self) -> dict[str, str]:
        """Return every file below, with the digest of its content."""
        folders = (self.work, self.inputs, self.temporary)
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in folders
            for path in folder.rglob("*")
            if path.is_file()
        }


def python(case: Case, stage: Stage) -> Outcome:
    """Run in process: `ldmref.load`, then the mode."""
    parameters = stage.parameters(case)
    model = stage.resolve(case.model)
    load = {name: stage.resolve(value) for name, value in case.load.items()}
    before = stage.files()
    try:
        loaded = stage.model
        if model is not None or load:
            loaded = ldmref.load(model or stage.model_folder, **load)
        result = getattr(modes, case.mode)(loaded, **parameters)
    except LdmrefError as error:
        return Outcome(error.code, error.exit_code)
    finally:
        assert stage.files() == before
    assert all(np.isfinite(result.latents).reshape(-1))
    return Outcome(images=len(result.images), warnings=result.warnings)


def command_line(case: Case, stage: Stage) -> Outcome:
    """Run in process, by the function behind the command `ldmref`."""
    if case.argv:
        argv = [str(stage.resolve(word)) for word in case.argv]
    else:
        model = stage.resolve(case.model) or stage.model_folder
        parameters = stage.parameters(case)
        load = {name: stage.resolve(value) for name, value in case.load.items()}
        argv = [case.mode, "-m", str(model), *flags(case.mode, load | parameters, stage.inputs)]
    before = stage.files()
    stage.capfd.readouterr()
    exit_code = main(argv)
    _, err = stage.capfd.readouterr()
    assert "Traceback" not in err
    codes = re.findall(r"^ldmref: error\[(.*?)\]: ", err, re.MULTILINE)
    added = {name for name, digest in stage.files().items() if before.get(name) != digest}
    assert before.keys() <= stage.files().keys()
    if exit_code:
        assert len(codes) == 1 and not added, (err, added)
        return Outcome(codes[0], exit_code)
    assert not codes and all(Path(name).parent == stage.work for name in added)
    for name in added:
        Image.open(name).load()
    warnings = [line for line in err.splitlines() if "warning:" in line]
    return Outcome(images=len(added), warnings=warnings)


def http(case: Case, stage: Stage) -> Outcome:
    """By the native interface of a server in this process."""
    parameters = stage.parameters(case)
    before = stage.files()
    try:
        response = post(stage.client, case.mode, parameters)
    finally:
        assert stage.files() == before
    if response.status_code == 200:
        assert response.content.startswith(b"\x89PNG")
        return Outcome(images=1, warnings=response.headers.get_list("ldmref-warning"))
    error = response.json()["error"]
    assert error["message"].isprintable() and "Traceback" not in response.text
    return Outcome(error["code"], status=response.status_code)


INTERFACES: Mapping[str, Callable[[Case, Stage], Outcome]] = {
    PYTHON: python,
    COMMAND_LINE: command_line,
    HTTP: http,
}


def interfaces_of(case: Case) -> list[str]:
    """Return the interfaces through which a case is run."""
    return [*case.interfaces, *([HTTP] if can_express(case) else [])]


def flags(mode: str, values: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the flags of a request."""
    argv = []
    for name, value in values.items():
        parameter = MODES[mode].parameters.get(name)
        flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
        if name == "prompt":
            flag = "--prompt"
        elif parameter is not None and flag_names(parameter):
            flag = flag_names(parameter)[-1]
        if isinstance(value, bool):
            argv += [flag] if value else []
        elif isinstance(value, np.ndarray):
            np.save(folder / f"{name}.npy", value)
            argv.append(f"{flag}={folder / name}.npy")
        else:
            listed = isinstance(value, list | tuple)
            text = ",".join(map(str, value)) if listed else str(value)
            argv.append(f"{flag}={text}")
    return argv
