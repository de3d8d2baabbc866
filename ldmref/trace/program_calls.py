"""Record the arrays of another program call by call, and write them as a trace."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ldmref.trace.files import TraceWriter
from ldmref.trace.left_out import LEFT_OUT, LeftOut
from ldmref.trace.recorder import CallRecord, Recorder
from ldmref.trace.selection import Selection
from ldmref.trace.store import EmptyStore, HostCopies, SpooledStore


class ProgramTraceWriter:
    """Write the calls of a program to the folder of a trace.

    The last call stays open until the next one, because programs may continue with its layers (clip
    skip does).

    Args:
        folder: The folder to write.
        selection: Calls, layers and steps to record. None: all.
        overwrite: Whether an existing trace is replaced.
        host: Copies arrays of the program to the host.
        program: What the manifest calls the program, and the packages whose versions it has.

    Attributes:
        manifest: The manifest, which may be extended.
        last: The last call, which stays open.
        left_out: What could not be recorded; the manifest says it, and a warning at the end.
    """

    def __init__(
        self,
        folder: str | Path,
        selection: Selection | None,
        overwrite: bool,
        host: HostCopies,
        program: tuple[str, Mapping[str, str]],
    ):
        name, packages = program
        versions = {**packages, "python": platform.python_version()}
        self.manifest: dict[str, Any] = {"program": name, "versions": versions}
        self.host = host
        if selection is not None:
            self.manifest["selection"] = dict(selection.record)
        self.last: CallRecord | None = None
        self.left_out = LeftOut()
        path = Path(folder)
        self._writer = TraceWriter(path, {}, overwrite=overwrite)
        store = partial(SpooledStore, path)
        self._recorder = Recorder(self._writer, store, selection, left_out=self.left_out)

    def begin(self, name: str, numbered: bool = True, network: object = None) -> CallRecord:
        """Begin a call: `unet.000`, `unet.001`; or, if not `numbered`, `schedule`, `schedule~1`."""
        recorder = self._recorder
        recorder.step = None
        if numbered:
            recorder.numbered.add(name)
            recorder.step = recorder.count("sampler")
        full = recorder.next_name(name)
        call = recorder.begin(name, self.host, network=network)
        return call or CallRecord(full, self.host, EmptyStore(), None, network)

    def end(self, call: CallRecord) -> None:
        """End a call, and write the one before."""
        self.flush()
        self.last = call

    def flush(self) -> None:
        """Write the call that ended last."""
        last, self.last = self.last, None
        if last is not None and last.entries:
            self._recorder.end(last)

    def close(self) -> Path:
        """Write the last call and the manifest, and warn of what is not in the trace.

        Raises:
            OutputError: The manifest cannot be written.
        """
        self.flush()
        written: dict[str, Any] = {}
        for key, value in self.manifest.items():
            with self.left_out.guard(f"{key} of the manifest"):
                written[key] = plain(value)
        if self.left_out.reasons:
            written[LEFT_OUT] = self.left_out.reasons
        self._writer.manifest = written
        path = self._writer.close()
        self.left_out.warn(self._writer.is_empty)
        return path


def plain(value: Any) -> Any:
    """Return a value that JSON can hold; other objects become text."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(part) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "tolist"):  # an array
        return plain(value.tolist())
    return str(value)
