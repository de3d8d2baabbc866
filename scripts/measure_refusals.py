"""Measure what it costs to refuse hostile input: peak memory and processor time for each reader.

python scripts/measure_refusals.py                      # print the table
python scripts/measure_refusals.py gguf-texts manifest  # some rows
PYTHONPATH=OTHER_CHECKOUT python scripts/measure_refusals.py

Each row runs in a process of its own, after its imports, with at most 6 GiB and 40 s. What it took
is above what the imports had taken. The files are sparse or small; they lie in a temporary folder.
"""

from __future__ import annotations

import ctypes
import gc
import gzip
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEMORY = 6 << 30
SECONDS = 40

Case = Callable[[Path], Callable[[], Any]]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(folder: Path, content: bytes, size: int = 0) -> Callable[[], Any]:
    """Return what opens a GGUF file of this content, sparse up to `size` bytes."""
    from ldmref.io.tensors.open_file import open_model_file

    path = folder / "a.gguf"
    with path.open("wb") as file:
        file.write(content)
        file.truncate(max(size, len(content)))
    return lambda: open_model_file(path)


def head(tensors: int, fields: int) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, tensors, fields)


def gguf_texts(folder: Path) -> Callable[[], Any]:
    """A sparse GGUF of 64 GB with an array of 2^50 texts."""
    return gguf(folder, head(0, 1) + text("a") + struct.pack("<IIQ", 9, 8, 2**50), 2**36)


def gguf_entries(folder: Path) -> Callable[[], Any]:
    """A sparse GGUF of 64 GB with 2^50 tensors without names."""
    return gguf(folder, head(2**50, 0), 2**36)


def gguf_full(folder: Path) -> Callable[[], Any]:
    """A GGUF of 60 MB with 1.5 million tensors."""
    entries = (text(f"{i:08}") + struct.pack("<IQIQ", 1, 0, 0, 0) for i in range(1_500_000))
    return gguf(folder, head(1_500_000, 0) + b"".join(entries))


def safetensors_values(folder: Path) -> Callable[[], Any]:
    """A safetensors header of 60 MB of empty lists."""
    from ldmref.io.tensors.open_file import open_model_file

    header = b'{"a":[' + b"[]," * 20_000_000 + b"[]]}"
    path = folder / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return lambda: open_model_file(path)


def config_values(folder: Path) -> Callable[[], Any]:
    """A config.json of 60 MB of empty lists."""
    from ldmref.support.files import read_json

    path = folder / "config.json"
    path.write_bytes(b"[" + b"[]," * 20_000_000 + b"[]]")
    return lambda: read_json(path)


def sd3_blocks(folder: Path) -> Callable[[], Any]:
    """A single file of SD3 with 30,000 empty blocks."""
    import numpy as np
    from safetensors.numpy import save_file

    from ldmref.io.checkpoint import read_model_config

    sizes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj.weight": (64, 16, 2, 2),
        "pos_embed": (1, 64, 64),
        "context_embedder.weight": (64, 4096),
        "y_embedder.mlp.0.weight": (64, 2048),
        "final_layer.linear.weight": (64, 64),
    }
    sizes |= {f"joint_blocks.{i}.x": (0,) for i in range(30_000)}
    save_file(
        {name: np.zeros(size, np.float16) for name, size in sizes.items()}, folder / "a.safetensors"
    )
    return lambda: read_model_config(folder / "a.safetensors")


def trace_folder(folder: Path, calls: int, roles: dict[str, str]) -> Path:
    import numpy as np
    from safetensors.numpy import save_file

    x = np.random.default_rng(0).standard_normal((1, 16, 16, 16), np.float32)
    save_file({"unet.000/conv_in/output": x}, folder / "a.safetensors")
    entries = [{"call": f"unet.{i}", "layer": "conv_in", "outputs": roles} for i in range(calls)]
    (folder / "trace.json").write_text(json.dumps({"entries": entries}))
    return folder


def manifest(folder: Path) -> Callable[[], Any]:
    """`diff` of a manifest of 200,000 calls that name one array."""
    import ldmref
    from ldmref.locate import diff_traces
    from ldmref.trace import load_trace

    trace_folder(folder, 200_000, {"output": "unet.000/conv_in/output"})
    model = ldmref.load(backend="numpy")
    return lambda: diff_traces(load_trace(folder), model)


def record(folder: Path) -> Callable[[], Any]:
    """A run record of 100,000 steps and schedules that name one array."""
    import numpy as np
    from safetensors.numpy import save_file

    from ldmref.explore import load_record

    roles = {"x": "a", "prediction": "a", "sigma": "b", "sigma_next": "b"}
    entries: list[dict[str, Any]] = []
    for i in range(50_000):
        entries.append({"call": f"schedule~{i}", "layer": "", "outputs": {"sigmas": "b"}})
        entries.append(
            {"call": f"sampler.{i}", "layer": "", "inputs": roles, "outputs": {"output": "a"}}
        )
    described = json.dumps({"format": "ldmref-trace", "version": 1, "entries": entries})
    arrays = {"a": np.ones((1, 4, 64, 64), np.float32), "b": np.ones(1)}
    metadata = {"format": "ldmref-trace", "version": "1", "manifest": described}
    save_file(arrays, folder / "a.safetensors", metadata)
    return lambda: load_record(folder / "a.safetensors")


def branches(folder: Path) -> Callable[[], Any]:
    """A branch of 5,000 branches."""
    import ldmref
    from ldmref import explore

    trunk: dict[str, Any] = {"mode": "txt2img", "prompt": "a", "seed": 1, "steps": 3}
    for _ in range(5000):
        trunk = {"trunk": trunk, "step": 1, "changes": {}}
    model = ldmref.random_model("tiny")
    return lambda: explore.branch_run(model, trunk, 1)


def wildcard_line(folder: Path) -> Callable[[], Any]:
    """A wildcard whose line of 10 kB names itself."""
    from ldmref.prompts import Wildcards

    return lambda: Wildcards({"a": ["__a__" + "b" * 10_000]}).expand("__a__", 1)


def wildcard_long(folder: Path) -> Callable[[], Any]:
    """A wildcard whose line of 1 MB names itself."""
    from ldmref.prompts import read_wildcards

    (folder / "a.txt").write_text("b" * 2**20 + "__a__")
    return lambda: read_wildcards(folder).expand("__a__", 1)


def glob(folder: Path) -> Callable[[], Any]:
    """A glob of 13 stars against a name of 60 letters."""
    from ldmref.trace.name_maps import make_renamer

    return lambda: make_renamer({"*a" * 12 + "*b": "x"})("a" * 60)


def schedule(folder: Path) -> Callable[[], Any]:
    """A million numbers as a schedule."""
    from ldmref.atlas import name_sigmas, read_numbers

    return lambda: name_sigmas(*read_numbers("0.5\n" * 1_000_000))


def programs(folder: Path) -> Callable[[], Any]:
    """20,000 times one program in a request for schedules."""
    from ldmref.apps.mcp.schedules import ScheduleRequest, answer_schedule

    return lambda: answer_schedule(ScheduleRequest("FLUX.1", ("BFL",) * 20_000))


def vocabulary_lines(folder: Path) -> Callable[[], Any]:
    """A vocab.txt of five million lines."""
    from ldmref.prompts.wordpiece import wordpiece_tokenizer

    path = folder / "vocab.txt"
    path.write_text("".join(f"{i}\n" for i in range(5_000_000)))
    return lambda: wordpiece_tokenizer(path)


def vocabulary_gzip(folder: Path) -> Callable[[], Any]:
    """A list of merges of 0.3 MB that unpacks to 256 MB."""
    from ldmref.prompts.clip_vocabulary import read_vocabulary

    path = folder / "bpe_simple_vocab_16e6.txt.gz"
    path.write_bytes(gzip.compress(b"\n" * 2**28))
    return lambda: read_vocabulary(path)


def piece(folder: Path) -> Callable[[], Any]:
    """A piece of 1 MB in tokenizer.json of T5."""
    from ldmref.prompts import unigram_tokenizer

    vocabulary = [["<unk>", 0.0], ["</s>", 0.0], ["<pad>", 0.0], ["a" * 2**20, -1.0]]
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({"model": {"unk_id": 0, "vocab": vocabulary}}))
    return lambda: unigram_tokenizer(path)


def spiece(folder: Path) -> Callable[[], Any]:
    """A spiece.model of 32 million fields."""
    from ldmref.prompts import unigram_tokenizer

    path = folder / "spiece.model"
    path.write_bytes(b"\x22\x00" * 30_000_000)
    return lambda: unigram_tokenizer(path)


def styles(folder: Path) -> Callable[[], Any]:
    """A styles.csv of 20,000 rows, the last of which is repeated."""
    from ldmref.prompts import read_styles

    rows = "".join(f"style {i},a,b\n" for i in range(20_000))
    path = folder / "styles.csv"
    path.write_text(f"name,prompt,negative_prompt\n{rows}style 19999,a,b\n")
    return lambda: read_styles(path)


def lora_misfit(folder: Path) -> Callable[[], Any]:
    """A LoRA whose names no preset has."""
    import numpy as np

    from ldmref.io.adapters.lora_changes import lora_changes
    from ldmref.io.adapters.lora_file import Lora
    from ldmref.models.presets import list_presets

    config = list_presets()["tiny"]
    lora = Lora("a", {"some.layer.alpha": np.ones(())})
    return lambda: lora_changes(config, lora)


def unknown_names(folder: Path) -> Callable[[], Any]:
    """A model of 100,000 tensors with unknown names."""
    import numpy as np
    from safetensors.numpy import save_file

    from ldmref.io.checkpoint import read_model_config

    empty = np.zeros(0, np.float32)
    save_file({f"{i}.x": empty for i in range(100_000)}, folder / "a.safetensors")
    return lambda: read_model_config(folder / "a.safetensors")


def plugins(folder: Path) -> Callable[[], Any]:
    """16,000 samplers that one package offers."""
    from ldmref.support.plugins import list_plugins, list_unusable

    package = folder / "theirs-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    lines = "".join(f"s{i} = theirs:s{i}\n" for i in range(16_000))
    (package / "entry_points.txt").write_text(f"[ldmref.samplers]\n{lines}")
    sys.path.insert(0, str(folder))
    return lambda: (list_plugins("ldmref.samplers"), list_unusable("ldmref.samplers", ()))


CASES: dict[str, Case] = {
    "gguf-texts": gguf_texts, "gguf-entries": gguf_entries, "gguf-full": gguf_full,
    "safetensors": safetensors_values, "config": config_values, "sd3-blocks": sd3_blocks,
    "manifest": manifest, "record": record, "branches": branches,
    "wildcard-line": wildcard_line, "wildcard-long": wildcard_long, "glob": glob,
    "schedule": schedule, "programs": programs, "vocabulary-lines": vocabulary_lines,
    "vocabulary-gzip": vocabulary_gzip, "piece": piece, "spiece": spiece, "styles": styles,
    "lora": lora_misfit, "names": unknown_names, "plugins": plugins,
}  # fmt: skip


def forget_peak() -> None:
    """Give freed memory back to the system, and begin a new peak; on Linux alone."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def used() -> tuple[float, float]:
    """Return the peak of the process' memory in MiB, and its processor time in seconds."""
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return peak, usage.ru_utime + usage.ru_stime


def measure(name: str) -> None:
    """Run one case, and print how it ended and what it took."""
    with tempfile.TemporaryDirectory() as folder:
        read = CASES[name](Path(folder))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY + 2**37, MEMORY + 2**37))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        forget_peak()
        memory, start = used()
        limit = int(start) + SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        try:
            read()
            end = "accepted"
        except BaseException as error:  # whatever ends it is what is measured
            end = str(getattr(error, "code", "") or type(error).__name__)
        peak, stop = used()
    print(f"{end}|{peak - memory:.0f} MiB|{stop - start:.2f} s")


def main() -> int:
    if sys.argv[1:2] == ["--case"]:
        measure(sys.argv[2])
        return 0
    print("| input | ends with | peak memory | processor time |\n|---|---|---|---|")
    for name in sys.argv[1:] or CASES:
        ran = subprocess.run(
            [sys.executable, os.path.abspath(__file__), "--case", name],
            capture_output=True,
            text=True,
        )
        what = (CASES[name].__doc__ or name).rstrip(".")
        answer = ran.stdout.strip() or f"signal {-ran.returncode}||more than {SECONDS} s"
        if not ran.stdout and ran.returncode != -24:
            answer = f"signal {-ran.returncode}||"
        print(f"| {what} | {answer.replace('|', ' | ')} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
