"""Parts of NumPy that are loaded at their first use, because nothing here uses them.

array-api-compat copies all names of NumPy, and to copy the name of a part loads it. `numpy.f2py`, a
compiler of Fortran, takes as long as NumPy itself.
"""

from __future__ import annotations

import sys
from importlib.util import LazyLoader, find_spec, module_from_spec

PARTS = (
    "numpy.f2py",
    "numpy.testing",
    "numpy.ctypeslib",
    "numpy.polynomial",
    "numpy.ma",
    "numpy.char",
    "numpy.rec",
)


def import_at_first_use(name: str) -> None:
    """Put a module in its place that is loaded when an attribute of it is used.

    Args:
        name: Its name. Nothing happens if it is loaded, or does not exist.

    >>> import_at_first_use("numpy.f2py")
    """
    if name in sys.modules:
        return
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        return
    spec.loader = LazyLoader(spec.loader)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    package, _, part = name.rpartition(".")
    sys.modules[name] = module
    setattr(sys.modules[package], part, module)


for numpy_part in PARTS:
    import_at_first_use(numpy_part)
