"""The version of ldmref, which images record, and that of Python."""

import sys

__version__ = "0.1.0"


def describe_python() -> str:
    """Return the version of Python; a free-threaded one with or without the GIL.

    Extension modules that are not made for it turn the GIL on when they are imported.
    """
    import platform
    import sysconfig

    version = platform.python_version()
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return version
    gil = "with" if getattr(sys, "_is_gil_enabled", lambda: True)() else "without"
    return f"{version} free-threaded, {gil} the GIL"
