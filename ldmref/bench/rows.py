"""The rows of `ldmref bench`: what is computed, on what, beside whom, and the ratio aimed at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ldmref.errors import UsageError, did_you_mean

WORKS = {
    "unet": "one step of the U-Net, batch 2",
    "vae": "decoding one picture",
    "text": "encoding one prompt",
    "picture": "one whole picture",
}
PEERS = {
    "eager": "{library} eager",
    "compiled": "{library} torch.compile",
    "channels_last": "{library} eager, channels_last",
    "process": "{library} eager, a fresh process",
    "onnx": "ONNX Runtime",
}


@dataclass(frozen=True)
class Row:
    """One comparison; ratios are ldmref / peer, so smaller is better and 1 is a draw."""

    name: str
    work: str  # of WORKS
    target: float | None  # the ratio to be reached; None where there is only an aim
    aim: float  # the ratio hoped for
    backend: str = "numpy"
    dtype: str = "float32"
    device: str = "cpu"
    speed: str = ""  # "exact", "fast" or "fastest"; "": as the backend does by itself
    peer: str = "eager"  # of PEERS
    measured: str = "time"  # or "memory": a process per side; "start": time of whole processes
    model: str = "sd15"  # a preset
    size: int = 512  # pixels of a side
    steps: int = 1  # sampler steps, of pictures
    tolerance: float = 1e-3  # largest difference of the outputs / largest output

    @property
    def library(self) -> str:
        """The library of the peer."""
        return "transformers" if self.work == "text" else "diffusers"

    @property
    def title(self) -> str:
        """What is compared, in words."""
        what = WORKS[self.work]
        size = "" if self.work == "text" else f", {self.size}x{self.size}"
        steps = f", {self.steps} steps" if self.work == "picture" else ""
        if self.measured != "time":
            prefix = {"memory": "peak memory", "start": "process start to file"}[self.measured]
            what = f"{prefix}: {what}"
        return f"{what}{size}{steps}, {self.model}, {self.dtype}"

    @property
    def peer_title(self) -> str:
        """The peer, in words."""
        return PEERS[self.peer].format(library=self.library)


_U8 = 2 / 255 + 1e-6  # of pictures: two units of 255
_SHORT = 0.1  # bfloat16 and float16: each side rounds at every layer
_ROWS = (
    Row("unet-numpy-64", "unet", 0.85, 0.70),
    Row("unet-numpy-32", "unet", 0.85, 0.65, size=256),
    Row("unet-torch-64", "unet", 0.80, 0.65, "torch"),
    Row("unet-torch-32", "unet", 0.85, 0.65, "torch", size=256),
    Row("unet-torch-compiled-64", "unet", 0.95, 0.85, "torch", speed="fastest", peer="compiled"),
    Row("unet-torch-compiled-32", "unet", 0.95, 0.85, "torch", speed="fastest", peer="compiled",
        size=256),
    Row("unet-torch-bf16", "unet", 1.0, 0.85, "torch", "bfloat16", peer="channels_last",
        tolerance=_SHORT),
    Row("unet-numpy-64-onnx", "unet", None, 1.0, peer="onnx"),
    Row("unet-numpy-32-onnx", "unet", None, 1.0, peer="onnx", size=256),
    Row("unet-torch-32-onnx", "unet", None, 1.0, "torch", peer="onnx", size=256),
    Row("vae-numpy", "vae", 1.0, 0.80),
    Row("vae-torch", "vae", 0.83, 0.75, "torch"),
    Row("clip-numpy", "text", 0.75, 0.65),
    Row("clip-torch", "text", 0.75, 0.65, "torch"),
    Row("memory-numpy", "picture", 1.0, 0.8, steps=2, measured="memory", tolerance=_U8),
    Row("memory-torch", "picture", 1.0, 0.8, "torch", steps=2, measured="memory", tolerance=_U8),
    Row("embedded", "picture", 0.5, 0.3, measured="start", peer="process", model="emoji", size=64,
        steps=20, tolerance=_U8),
    Row("gpu-torch", "picture", 0.6, 0.6, "torch", "float16", "cuda", steps=50, tolerance=_SHORT),
    Row("gpu-torch-compiled", "picture", 1.0, 1.0, "torch", "float16", "cuda", speed="fastest",
        peer="compiled", steps=50, tolerance=_SHORT),
    Row("gpu-cupy", "picture", 2.0, 2.0, "cupy", "float16", "cuda", speed="fast", steps=50,
        tolerance=_SHORT),
)  # fmt: skip
ROWS: dict[str, Row] = {row.name: row for row in _ROWS}


def select(
    names: Sequence[str] = (),
    *,
    backend: str | None = None,
    size: int | None = None,
    steps: int | None = None,
    quick: bool = False,
) -> list[Row]:
    """Rows by name or by the beginning of their names (`unet`, `memory`); all, if none is named.

    Args:
        backend: only rows on this one.
        size, steps: in place of the rows' own.
        quick: the smallest models and pictures: both sides run, the numbers mean nothing.

    Raises:
        UsageError: no row has that name, or none is on that backend.
    """
    chosen: dict[str, Row] = {}
    for name in names or ROWS:
        found = [row for row in ROWS.values() if row.name == name] or [
            row for row in ROWS.values() if row.name.startswith(f"{name}-")
        ]
        if not found:
            raise UsageError(f"no row {name!r}", code="E-ROW", hint=did_you_mean(name, ROWS))
        chosen |= {row.name: row for row in found}
    rows = [row for row in chosen.values() if backend in (None, row.backend)]
    if not rows:
        known = sorted({row.backend for row in chosen.values()})
        raise UsageError(
            f"none of these rows is on backend {backend!r}",
            code="E-ROW",
            hint=f"theirs: {', '.join(known)}; see ldmref bench --list",
        )
    if quick:
        rows = [quickly(row) for row in rows]
    if size is not None:
        rows = [replace(row, size=size) for row in rows]
    if steps is not None:
        rows = [replace(row, steps=steps) for row in rows]
    return rows


def quickly(row: Row) -> Row:
    """The row on the smallest model there is: a trial, not a measurement."""
    if row.measured == "start":
        return replace(row, steps=2)
    return replace(row, model="tiny", size=32, steps=min(row.steps, 2))
