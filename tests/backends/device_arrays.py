"""Arrays of the stand-in for CuPy."""

import numpy as np


class DeviceArray(np.ndarray):
    """A NumPy array that, like CuPy's, refuses to meet a host array or to become one unasked."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        refuse_host_arrays((*inputs, *out))
        arrays = [x.view(np.ndarray) if isinstance(x, DeviceArray) else x for x in inputs]
        if out:
            kwargs["out"] = tuple(x.view(np.ndarray) for x in out)
        return on_device(getattr(ufunc, method)(*arrays, **kwargs))

    def __setitem__(self, key, value):
        refuse_host_arrays((value,))
        super().__setitem__(key, value)


def refuse_host_arrays(values):
    """Raise CuPy's error if one of the values is an array of the host."""
    for x in values:
        if isinstance(x, np.ndarray) and not isinstance(x, DeviceArray):
            raise TypeError(f"Unsupported type {type(x)}")  # the words of CuPy


def on_device(y):
    """Return an array of the stand-in's device; anything else as it is."""
    if isinstance(y, np.ndarray | np.generic):
        return np.asarray(y).view(DeviceArray)
    return y
