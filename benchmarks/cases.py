"""The cases: which work of ldmref is compared with which other program, and the goals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.blocks import BLOCKS, block_workload, make_block, make_block_inputs
from benchmarks.profile import count_flops
from benchmarks.work import TITLES, MeasuredWork, Workload
from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.errors import UsageError, did_you_mean

TRAINING_BATCH = 32
WORK_TITLES = TITLES | {
    "joint_block": "one joint block, 333 text tokens",
    "double_block": "one double block, 256 text tokens",
    "single_block": "one single block, 256 text tokens",
    "flux2_double_block": "one double block, 512 text tokens",
    "flux2_single_block": "one single block, 512 text tokens",
    "flux3_single_block": "one single block, 480 text tokens",
    "krea2_block": "one block, 512 text tokens",
    "qwen_image_21_block": "one block, 256 text tokens",
    "stream_block": "one block of one stream, 128 text tokens",
    "train": f"one training step, batch {TRAINING_BATCH}",
}
PEER_TITLES = {
    "eager": "{library} eager", "compiled": "{library} torch.compile", "onnx": "ONNX Runtime",
    "openvino": "OpenVINO", "torch": "{library} on torch",
    "channels_last": "{library} eager, channels_last",
    "autocast": "{library} eager, autocast", "process": "{library} eager, a fresh process",
    "one_thread": "{library} on one thread",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BenchmarkCase(MeasuredWork):
    """One comparison. A ratio is ldmref / peer: below 1, ldmref needs less."""

    name: str
    target: float | None  # required ratio; None: informative only
    aim: float  # desired ratio
    device: str = "cpu"
    array_dtype: str = (
        ""  # of ldmref's arrays and weights; "": `dtype`, in which both sides compute
    )
    peer: str = "eager"  # key of PEER_TITLES
    measured: str = "time"  # "memory": one process per side; "start": time of whole processes
    tolerance: float = 1e-3  # max |ours - theirs| / max |theirs|

    @property
    def library(self) -> str:
        """The peer's library."""
        if self.peer in ("one_thread", "torch"):
            return "ldmref"
        return "transformers" if self.work == "text" else "diffusers"

    @property
    def is_block(self) -> bool:
        """Whether the work is a single block of a transformer."""
        return self.work in BLOCKS

    @property
    def title(self) -> str:
        """Description of the workload."""
        prefix = {"memory": "peak memory: ", "start": "process start to file: "}
        size = "" if self.work == "text" else f", {self.size}x{self.size}"
        scale = "no guidance" if self.cfg_scale == 1.0 else f"guidance {self.cfg_scale:g}"
        steps = f", {self.steps} steps, {scale}" if self.work == "image" else ""
        work = prefix.get(self.measured, "") + WORK_TITLES[self.work]
        return f"{work}{size}{steps}, {self.model}, {self.dtype}"

    @property
    def peer_title(self) -> str:
        """Description of the peer."""
        return PEER_TITLES[self.peer].format(library=self.library)

    def make_backend(self) -> Backend:
        """Return the case's backend, at the case's `speed`.

        Raises:
            BackendUnavailable: The backend cannot run on this machine.
        """
        dtype = self.array_dtype or self.dtype
        return get_backend(self.backend, self.device, dtype, self.speed or None)

    def make_model(self, backend: Backend | None = None) -> Any:
        """Return the case's model, a `LatentDiffusion` or `BlockModel`, with random weights."""
        if self.is_block:
            return make_block(self.work, self.model, backend or self.make_backend())
        return super().make_model(backend)

    def make_inputs(self, model: Any, batch: int | None = None) -> Any:
        """Return seeded inputs, `WorkInputs` or `BlockInputs`."""
        if self.is_block:
            return make_block_inputs(model, self.size, batch or 1)
        return super().make_inputs(model, batch)

    def make_workload(self, model: Any, inputs: Any) -> Workload:
        """Return ldmref's side of the case."""
        return (
            block_workload(model, inputs) if self.is_block else super().make_workload(model, inputs)
        )

    def count_flops(self, model: Any, inputs: Any) -> int:
        """Count the operations of convolutions (in direct form), linear layers and attention.

        For a training step these are the U-Net's; the backward pass has twice those of the forward
        one.
        """
        if self.work != "train":
            return count_flops(self, model, inputs)
        step = replace(self, work="unet")
        return 3 * count_flops(step, model, self.make_inputs(model, TRAINING_BATCH))


_SD_32: dict[str, Any] = {"size": 256}
_EMBEDDED: dict[str, Any] = {"model": "emoji-128", "size": 128}
_UINT8 = 2 / 255 + 1e-6  # tolerance of images: two 8-bit steps
_HALF = 0.1  # of bfloat16 and float16: both sides round after every layer
_COMPILED: dict[str, Any] = {"speed": "fastest", "peer": "compiled"}
_BF16 = {"dtype": "bfloat16", "peer": "channels_last", "tolerance": _HALF}
# the openvino backend keeps float32 arrays when it computes in bfloat16
_OPENVINO_BF16 = _BF16 | {"array_dtype": "float32", "speed": "fastest"}
_MEMORY = {"measured": "memory", "steps": 2, "tolerance": _UINT8}
_START = {"measured": "start", "peer": "process", "model": "emoji", "size": 128, "steps": 20}
_TRAIN: dict[str, Any] = _EMBEDDED | {"speed": "exact"}
_THREADS: dict[str, Any] = {"peer": "one_thread", "tolerance": 1e-5}
_GPU = {"dtype": "float16", "device": "cuda", "steps": 50, "tolerance": _HALF}
_SD3: dict[str, Any] = {"model": "sd3-medium"}
_FLUX: dict[str, Any] = {"model": "flux-dev"}
_FLUX2: dict[str, Any] = {"model": "flux2-klein-4b"}
_FLUX3: dict[str, Any] = {"model": "flux3-klein"}
_KREA2: dict[str, Any] = {"model": "krea-2"}
_QWEN_IMAGE_21: dict[str, Any] = {"model": "qwen-image-2.1"}
_Z_IMAGE: dict[str, Any] = {"model": "z-image"}
_MEASURED_BLOCKS = (
    ("joint", "joint_block", _SD3),
    ("double", "double_block", _FLUX),
    ("single", "single_block", _FLUX),
)
_CASES: tuple[tuple[str, str, float | None, float, str, dict[str, Any]], ...] = (
    ("unet-numpy-64", "unet", 0.85, 0.70, "numpy", {}),
    ("unet-numpy-32", "unet", 0.85, 0.65, "numpy", {"size": 256}),
    ("unet-torch-64", "unet", 0.80, 0.65, "torch", {}),
    ("unet-torch-32", "unet", 0.85, 0.65, "torch", {"size": 256}),
    ("unet-torch-compiled-64", "unet", 0.95, 0.85, "torch", _COMPILED),
    ("unet-torch-compiled-32", "unet", 0.95, 0.85, "torch", {"size": 256, **_COMPILED}),
    ("unet-torch-bf16", "unet", 1.0, 0.85, "torch", _BF16),
    ("unet-openvino-bf16", "unet", 0.9, 0.7, "openvino", _OPENVINO_BF16),
    ("unet-numpy-64-onnx", "unet", None, 1.0, "numpy", {"peer": "onnx"}),
    ("unet-numpy-32-onnx", "unet", None, 1.0, "numpy", _SD_32 | {"peer": "onnx"}),
    ("unet-torch-32-onnx", "unet", None, 1.0, "torch", _SD_32 | {"peer": "onnx"}),
    ("unet-numpy-64-openvino", "unet", None, 1.0, "numpy", {"peer": "openvino"}),
    ("unet-numpy-32-openvino", "unet", None, 1.0, "numpy", _SD_32 | {"peer": "openvino"}),
    ("unet-torch-32-openvino", "unet", None, 1.0, "torch", _SD_32 | {"peer": "openvino"}),
    ("embedded-step-eager", "unet", None, 0.8, "numpy", _EMBEDDED),
    ("embedded-step-torch", "unet", None, 1.0, "numpy", _EMBEDDED | {"peer": "torch"}),
    ("embedded-step-openvino", "unet", None, 1.0, "numpy", _EMBEDDED | {"peer": "openvino"}),
    ("embedded-step-onnx", "unet", None, 1.0, "numpy", _EMBEDDED | {"peer": "onnx"}),
    ("openvino-embedded", "unet", 1.05, 1.0, "openvino", _EMBEDDED | {"peer": "openvino"}),
    ("openvino-32", "unet", 1.05, 1.0, "openvino", _SD_32 | {"peer": "openvino"}),
    ("vae-numpy", "vae", 1.0, 0.80, "numpy", {}),
    ("vae-torch", "vae", 0.83, 0.75, "torch", {}),
    ("clip-numpy", "text", 0.75, 0.65, "numpy", {}),
    ("clip-torch", "text", 0.75, 0.65, "torch", {}),
    ("train-unet", "train", 1.1, 1.0, "torch", _TRAIN),
    ("train-unet-bf16", "train", 1.1, 1.0, "torch", _TRAIN | _BF16 | {"peer": "autocast"}),
    ("threads-embedded", "unet", 1.05, 0.95, "numpy", _THREADS | _EMBEDDED),
    ("threads-16", "unet", 1.05, 0.70, "numpy", _THREADS | {"size": 128}),
    ("threads-32", "unet", 1.05, 0.60, "numpy", _THREADS | {"size": 256}),
    ("memory-numpy", "image", 1.0, 0.8, "numpy", _MEMORY),
    ("memory-torch", "image", 1.0, 0.8, "torch", _MEMORY),
    ("sd3-joint-numpy", "joint_block", 0.9, 0.8, "numpy", _SD3),
    ("sd3-joint-torch", "joint_block", 0.9, 0.8, "torch", _SD3),
    ("sd3-joint-openvino", "joint_block", 1.05, 1.0, "openvino", _SD3 | {"peer": "openvino"}),
    ("flux-double-numpy", "double_block", 0.9, 0.8, "numpy", _FLUX),
    ("flux-double-torch", "double_block", 0.9, 0.8, "torch", _FLUX),
    ("flux-double-openvino", "double_block", 1.05, 1.0, "openvino", _FLUX | {"peer": "openvino"}),
    ("flux-single-numpy", "single_block", 0.9, 0.8, "numpy", _FLUX),
    ("flux-single-torch", "single_block", 0.9, 0.8, "torch", _FLUX),
    ("flux-single-openvino", "single_block", 1.05, 1.0, "openvino", _FLUX | {"peer": "openvino"}),
    ("flux2-double-numpy", "flux2_double_block", None, 0.8, "numpy", _FLUX2),
    ("flux2-double-torch", "flux2_double_block", None, 0.8, "torch", _FLUX2),
    ("flux2-single-numpy", "flux2_single_block", None, 0.8, "numpy", _FLUX2),
    ("flux2-single-torch", "flux2_single_block", None, 0.8, "torch", _FLUX2),
    ("flux3-single-numpy", "flux3_single_block", 0.9, 0.8, "numpy", _FLUX3),
    ("flux3-single-torch", "flux3_single_block", 0.9, 0.8, "torch", _FLUX3),
    ("krea2-block-numpy", "krea2_block", 0.9, 0.8, "numpy", _KREA2),
    ("krea2-block-torch", "krea2_block", 0.9, 0.8, "torch", _KREA2),
    ("qwen-image-21-block-numpy", "qwen_image_21_block", 0.9, 0.8, "numpy", _QWEN_IMAGE_21),
    ("qwen-image-21-block-torch", "qwen_image_21_block", 0.9, 0.8, "torch", _QWEN_IMAGE_21),
    ("z-image-block-numpy", "stream_block", 0.9, 0.8, "numpy", _Z_IMAGE),
    ("z-image-block-torch", "stream_block", 0.9, 0.8, "torch", _Z_IMAGE),
    *(
        (f"memory-{name}-{backend}", work, 0.9, 0.8, backend, {**model, "measured": "memory"})
        for name, work, model in _MEASURED_BLOCKS
        for backend in ("numpy", "torch")
    ),
    *(
        (
            f"embedded-{steps}-{backend}",
            "image",
            None,
            0.8,
            backend,
            {**_EMBEDDED, "steps": steps, "cfg_scale": scale, "tolerance": _UINT8},
        )
        for steps, scale in ((1, 1.0), (2, 1.0), (4, 1.0), (20, 2.5))
        for backend in ("numpy", "torch", "openvino")
    ),
    ("embedded", "image", 0.5, 0.3, "numpy", {"tolerance": _UINT8, **_START}),
    ("gpu-torch", "image", 0.6, 0.6, "torch", _GPU),
    ("gpu-torch-compiled", "image", 1.0, 1.0, "torch", _GPU | _COMPILED),
    ("gpu-cupy", "image", 2.0, 2.0, "cupy", {"speed": "fast", **_GPU}),
)
CASES = {
    name: BenchmarkCase(name=name, work=work, target=target, aim=aim, backend=backend, **fields)
    for name, work, target, aim, backend, fields in _CASES
}


def select_cases(names: Sequence[str] = (), *, backend: str | None = None) -> list[BenchmarkCase]:
    """Return cases by name or name prefix (`unet`, `memory`); without names, all of them.

    Raises:
        UsageError: A name is unknown, or none of the named cases runs on `backend`.
    """
    selected: dict[str, BenchmarkCase] = {}
    for name in names or CASES:
        matches = [name] if name in CASES else [n for n in CASES if n.startswith(f"{name}-")]
        if not matches:
            raise UsageError(f"no row {name!r}", code="E-ROW", hint=did_you_mean(name, CASES))
        selected |= {match: CASES[match] for match in matches}
    cases = [case for case in selected.values() if backend in (None, case.backend)]
    if not cases:
        known = sorted({case.backend for case in selected.values()})
        message = f"none of these rows is on backend {backend!r}"
        hint = f"theirs: {', '.join(known)}; see python -m benchmarks --list"
        raise UsageError(message, code="E-ROW", hint=hint)
    return cases


def resized(
    case: BenchmarkCase, *, quick: bool = False, size: int | None = None, steps: int | None = None
) -> BenchmarkCase:
    """Return the case with another size or number of steps.

    `quick` selects the smallest model and image, to show that both sides run; its timings mean
    nothing.
    """
    if quick and case.measured == "start":
        case = replace(case, steps=2)
    elif quick:
        model = BLOCKS[case.work].small if case.is_block else "tiny"
        case = replace(case, model=model, size=32, steps=min(case.steps, 2))
    return replace(case, size=size or case.size, steps=steps or case.steps)
