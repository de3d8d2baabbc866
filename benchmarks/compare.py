"""Run a case: check that both sides agree, and measure their time or memory in turn.

Rounds alternate between ldmref and its peer, so a disturbance of the machine affects both.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.blocks import save_block
from benchmarks.cases import BenchmarkCase
from benchmarks.machine import GEMM_SIZES, gemm_peaks
from benchmarks.peers import dpm_scheduler, peer_network, peer_workload, require_peer
from benchmarks.work import PROMPT, SEED, Workload, pixels
from ldmref.backends import get_backend
from ldmref.errors import LdmrefError, ResourceError, VerifyError
from ldmref.io.native import save_folder
from ldmref.loading import load
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import Params
from ldmref.samplers.noise import Streams

SIDES = ("ours", "theirs")
PROCESS = Path(__file__).with_name("child_process.py")
CHECKOUT = Path(__file__).parents[1]


@dataclass(frozen=True)
class PairedSamples:
    """One measurement per round and side, in seconds or bytes."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Return ours / theirs of each round."""
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Return all samples, their medians, and the ratio: median, range, of the least samples.

        On a shared machine the ratio of the least samples is the most reliable one.
        """
        ratios = self.ratios
        spread = {"min": min(ratios), "max": max(ratios)}
        least = min(self.ours) / min(self.theirs)
        return {
            "ours": {"values": list(self.ours), "median": statistics.median(self.ours)},
            "theirs": {"values": list(self.theirs), "median": statistics.median(self.theirs)},
            "ratio": {"median": statistics.median(ratios), **spread, "least": least},
        }


def run_case(
    case: BenchmarkCase, rounds: int = 5, gemm_sizes: tuple[int, ...] = GEMM_SIZES
) -> dict[str, Any]:
    """Measure a case.

    Args:
        case: The comparison to run.
        rounds: Measured rounds, at least 1.
        gemm_sizes: Sizes of the matrix products that determine the peak.

    Returns:
        JSON-able: the case's fields, `error`, the samples of `ours` and `theirs`, and `ratio`
        (median, min, max, least); of timed networks also `flops`, `peak`, and each side's `gflops`
        and `share` of the peak.

    Raises:
        BackendUnavailable: Backend, device or peer is missing.
        VerifyError: The outputs differ, so a ratio would mean nothing.
    """
    require_peer(case)
    result = asdict(case) | {"title": case.title, "peer_title": case.peer_title, "rounds": rounds}
    if case.measured == "time":
        return result | _compare_time(case, rounds, gemm_sizes)
    return result | _compare_processes(case, rounds)


def _compare_time(case: BenchmarkCase, rounds: int, gemm_sizes: tuple[int, ...]) -> dict[str, Any]:
    """Measure both sides in this process; they share the weights if possible."""
    model = case.make_model()
    inputs = case.make_inputs(model)
    if case.work == "train":
        from benchmarks.training import training_workloads

        ours, theirs = training_workloads(case, model)
    else:
        ours = case.make_workload(model, inputs)
        theirs = peer_workload(case, model, inputs)
    error = require_agreement(case, ours.output(), theirs.output())
    flops = case.count_flops(model, inputs)
    result = time_alternately(ours, theirs, rounds).to_dict()
    peaks = gemm_peaks(case.dtype, case.device, gemm_sizes)
    peak = max(peaks.values(), default=0.0)
    for side in SIDES:
        gflops = flops / result[side]["median"] / 1e9
        result[side] |= {"gflops": gflops, "share": gflops / peak if peak else None}
    return {"unit": "s", "error": error, "flops": flops} | result | {"peak": peaks}


def _compare_processes(case: BenchmarkCase, rounds: int) -> dict[str, Any]:
    """Measure the peak memory or the duration of one process per side and round.

    When durations are measured, a first round fills the file caches and is not counted.
    """
    startup = case.measured == "start"
    before = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(case, folder)

        def measure(side: str) -> float:
            seconds, stdout = run_process(process_command(case, side, folder))
            if startup:
                return seconds
            memory = json.loads(stdout.splitlines()[-1])
            before[side].append(memory["before"])
            return float(memory["peak"])

        samples = alternate(measure, rounds, warm_up=int(startup))
        error = require_agreement(case, *(read_output(case, folder, side) for side in SIDES))
    result = {"unit": "s" if startup else "B", "error": error} | samples.to_dict()
    if not startup:
        for side in SIDES:
            result[side]["before"] = before[side]
    return result


def save_model(case: BenchmarkCase, folder: Path) -> None:
    """Write the model that the processes read, float32, to `folder`/model."""
    exact = get_backend("numpy", "cpu", "float32", "exact")
    if case.is_block:
        save_block(case.make_model(exact), folder / "model")
    elif case.measured == "start":
        model = load(case.model, backend="numpy", device="cpu", dtype="float32")
        save_diffusers(model, folder / "model", case)
    else:
        model = case.make_model(exact)
        params = Params(model.params)
        save_folder(folder / "model", model.config, params, [model.tokenizer], np.float32)


def process_command(case: BenchmarkCase, side: str, folder: Path) -> list[str]:
    """Return the command line that does the case's work by one side."""
    model = str(folder / "model")
    output = str(output_file(case, folder, side))
    if case.measured == "memory":
        case_json = json.dumps(asdict(case))
        argv = ["-m", "benchmarks.child_process", "memory", side, case_json, model, output]
    elif side == "theirs":
        argv = ["-P", str(PROCESS), "diffusers", model, output]
    else:
        argv = [
            "-m",
            "ldmref",
            "txt2img",
            "-m",
            case.model,
            "-p",
            PROMPT,
            "--seed",
            str(SEED),
            "--steps",
            str(case.steps),
            "--backend",
            case.backend,
            "--device",
            case.device,
            "--dtype",
            case.dtype,
            "-o",
            output,
            "--overwrite",
            "-q",
        ]
    return [sys.executable, *argv]


def output_file(case: BenchmarkCase, folder: Path, side: str) -> Path:
    """Return the file that a side's process writes: an image or an array."""
    return folder / f"{side}.{'npy' if case.is_block else 'png'}"


def read_output(case: BenchmarkCase, folder: Path, side: str) -> np.ndarray:
    """Return the last output of a side's process."""
    file = output_file(case, folder, side)
    if case.is_block:
        return np.load(file)
    with Image.open(file) as image:
        return pixels([image])


def save_diffusers(model: LatentDiffusion, folder: Path, case: BenchmarkCase) -> None:
    """Write networks, scheduler and inputs for the `diffusers` program of `child_process`."""
    config = model.config
    for name in case.networks:
        peer_network(name, model).save_pretrained(folder / name)
    dpm_scheduler(config).save_pretrained(folder / "scheduler")
    token_ids = np.asarray(model.tokenize(["", PROMPT]).ids[:, 0], np.int64)
    latents = Streams([SEED], model.latent_shape(case.size, case.size))()
    numbers = {"steps": case.steps, "cfg_scale": config.defaults.cfg_scale}
    np.savez(folder / "inputs.npz", token_ids=token_ids, latents=latents, **numbers)


def run_process(argv: list[str]) -> tuple[float, str]:
    """Return the seconds from start to end of a process, and its standard output.

    Raises:
        ResourceError: A signal killed the process.
        LdmrefError: The process failed; the message is its last line on stderr.
    """
    start = time.perf_counter()
    process = subprocess.run(argv, capture_output=True, text=True, cwd=CHECKOUT)
    seconds = time.perf_counter() - start
    if process.returncode < 0:
        message = f"a process of this row was killed by signal {-process.returncode}"
        raise ResourceError(message, code="E-MEMORY", hint="most often memory ran out: --size 256")
    if process.returncode:
        message = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise LdmrefError(f"a process of this row failed: {message}", code="E-PROCESS")
    return seconds, process.stdout


def require_agreement(case: BenchmarkCase, ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the relative error between the outputs.

    Raises:
        VerifyError: The error exceeds the case's tolerance.
    """
    error = relative_error(ours, theirs)
    if not error <= case.tolerance:
        raise VerifyError(
            f"{case.name}: the two sides differ by {error:.3g} of the largest output, allowed is "
            f"{case.tolerance:.3g}",
            code="E-BENCH",
            hint="their times cannot be compared; ldmref diff names the first layer that differs",
        )
    return error


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """Return max |a - b| / max |b|; infinity if shapes differ or a value is not finite."""
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    scale = float(np.abs(b).max(initial=0.0))
    error = float(np.abs(a - b).max(initial=0.0))
    return error / scale if scale else (0.0 if error == 0 else math.inf)


def alternate(measure: Callable[[str], float], rounds: int, warm_up: int = 0) -> PairedSamples:
    """Call `measure("ours")` and `measure("theirs")` in each round, after warm-up rounds."""
    samples = [(measure("ours"), measure("theirs")) for _ in range(warm_up + rounds)]
    return PairedSamples(*zip(*samples[warm_up:], strict=True))


def time_alternately(ours: Workload, theirs: Workload, rounds: int) -> PairedSamples:
    """Return the seconds per call of both sides, after one warm-up round.

    A round repeats calls shorter than `MIN_SECONDS`, both sides equally often.
    """
    sides = {"ours": ours, "theirs": theirs}
    repeat = min(side.repeats() for side in sides.values())
    return alternate(lambda side: sides[side].seconds_per_call(repeat), rounds, warm_up=1)
