"""The public names of the laboratory: complete, documented, and imported at their first use."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

PACKAGES = ("ldmref.training", "ldmref.evaluate", "ldmref.datasets")


@pytest.mark.parametrize("name", PACKAGES)
def test_public_names_are_listed_and_there(name):
    package = importlib.import_module(name)
    assert set(package.__all__) <= set(dir(package))
    for public in package.__all__:
        found = getattr(package, public)
        assert inspect.getdoc(found), f"{name}.{public} has no docstring"
        assert not inspect.ismodule(found), f"{name}.{public} is hidden by a module"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = package.trian


@pytest.mark.parametrize("name", PACKAGES[:2])
def test_importing_the_package_loads_nothing(name):
    code = (
        f"import sys, {name}\n"
        "loaded = [m for m in sys.modules if m in ('torch', 'numpy', 'PIL', 'click')]\n"
        f"assert len(dir({name})) >= len({name}.__all__)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_main_functions_say_what_they_take_return_and_raise():
    from ldmref import evaluate, training

    functions = (
        training.train,
        training.fine_tune,
        training.read_recipe,
        training.load_dataset,
        evaluate.evaluate,
    )
    for function in functions:
        text = inspect.getdoc(function) or ""
        for section in ("Args:", "Returns:", "Raises:", ">>>"):
            assert section in text, f"{function.__name__} has no {section}"
        for parameter in inspect.signature(function).parameters:
            assert f"    {parameter}: " in text, f"{function.__name__}: {parameter}"
