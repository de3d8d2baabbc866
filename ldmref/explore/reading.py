"""Run records, read from traces: a file or a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ldmref.errors import CorruptModelError
from ldmref.explore.format import CODE, RunRecord, not_a_record
from ldmref.explore.view import view_run
from ldmref.io.tensors.safetensors import TensorBytes
from ldmref.support.files import check_input_path, read_file, shown
from ldmref.trace.model import Trace, build_trace
from ldmref.trace.readers.load import load_trace
from ldmref.trace.single import is_single, unpack_trace

MAX_BYTES = 4 * 2**30


def load_record(source: str | Path | bytes) -> RunRecord:
    """Read a run record.

    Args:
        source: A file of `ldmref record`, or its content; or a trace of `ldmref trace`, of which
            the states are kept. Maps of words are in the first alone.

    Returns:
        The record, as `record_run` made it.

    Raises:
        InputError: There is no such file, it is damaged, or it is not a run record.
        UsageError: The trace is of several images, or lacks steps or the finished image.

    >>> import ldmref
    >>> from ldmref.explore import load_record, record_run
    >>> record = record_run(ldmref.random_model("tiny"), prompt="a red cat", seed=1, steps=3)
    >>> load_record(record.to_bytes())
    <RunRecord of txt2img: 'a red cat', 3 steps>
    """
    if isinstance(source, bytes):
        return view_run(_read_bytes(source, "the run record"), "the run record")
    path = check_input_path(source, "the path of a run record", CODE)
    if path.is_dir():
        return view_run(load_trace(path), shown(path))
    return view_run(_read_bytes(read_file(path, MAX_BYTES, CODE), path.name), path.name)


def _read_bytes(content: bytes, name: str) -> Trace:
    """Return the trace of a file."""
    try:
        tensors = TensorBytes(content, name)
    except CorruptModelError as error:
        why = str(error).removeprefix(shown(Path(name))).strip()
        raise not_a_record(name, f"it {why}") from error
    if not is_single(tensors.metadata):
        return _read_names(tensors, name)
    try:
        return unpack_trace(tensors, tensors.metadata, tensors.kinds, name)
    except CorruptModelError as error:
        raise not_a_record(name, str(error)) from error


def _read_names(tensors: Mapping[str, np.ndarray], name: str) -> Trace:
    """Return the trace of tensors that have a trace's names, without a manifest.

    Raises:
        CorruptModelError: None has.
    """
    trace = build_trace(tensors, source=name)
    if not trace.entries:
        raise not_a_record(name, "its tensors do not have the names of a trace")
    return trace
