"""What a terminal obeys in the text of a file, a user or a package is printed as an escape."""

from __future__ import annotations

import json
import logging
import struct

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import ldmref
from ldmref.apps.cli import doctor as doctor_module
from ldmref.apps.cli.progress import ProgressBar, print_line, say
from ldmref.errors import one_line

RANGES = ((0x00, 0x20), (0x7F, 0xA0), (0x200E, 0x2010), (0x2028, 0x202F), (0x2066, 0x206A))
CONTROLS = [chr(i) for start, stop in RANGES for i in range(start, stop)]
HOSTILE = "a\x9b31mb\x85c\u202ed\u2066e\u2028f\u2029g\x7fh\x1b[2Ji\x07j\u202ck\x80l\x9dm"
SHORT = "a\x9bb\u202ec\x1bd"  # the name of a file has at most 255 bytes


def refuse_controls(ran):
    for stream in (ran.out, ran.err):
        assert not {*stream} & {*CONTROLS} - {"\n"}, stream


@pytest.mark.parametrize("control", CONTROLS, ids=lambda c: f"{ord(c):04x}")
def test_each_control_is_escaped(control, capfd):
    assert one_line(f"a{control}b").isprintable()
    say(f"a{control}b")
    print_line(f"a{control}b", f"c{control}d")
    ProgressBar("plain").update(1, 1, 0, 1, f"a{control}b")
    for text in capfd.readouterr():
        assert control not in text.replace("\n", "", text.count("\n")) and "a\\" in text


def test_other_texts_stay_as_they_are():
    for text in ("é ß 猫 שלום ❤️", "a\\nb", "x²"):
        assert one_line(text) == text


def record(path, **texts):
    chunks = PngInfo()
    for key, text in texts.items():
        chunks.add_itxt(key, text)
    Image.new("RGB", (16, 16)).save(path, pnginfo=chunks)


def header(path, name, kind="F32", **metadata):
    text = json.dumps(
        {name: {"dtype": kind, "shape": [1], "data_offsets": [0, 4]}, "__metadata__": metadata},
        ensure_ascii=False,
    ).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))


@pytest.fixture
def files(work, model_folder):
    """Files whose names, tensors, records and rows are hostile."""
    graph = {"1": {"class_type": f"KSampler{HOSTILE}", "inputs": {HOSTILE: HOSTILE, "a": ["2", 0]}}}
    graph["2"] = {"class_type": HOSTILE, "inputs": {"value": HOSTILE}}
    text = f"{HOSTILE}\nSteps: 3, Seed: 1, Size: 16x16, Sampler: {HOSTILE}, Model: {HOSTILE}"
    record(work / "graph.png", prompt=json.dumps(graph), workflow=HOSTILE)
    record(work / "text.png", parameters=text)
    record(work / "json.png", parameters=json.dumps({HOSTILE: HOSTILE, "version": "Fooocus"}))
    record(work / "ours.png", ldmref=json.dumps({"mode": "txt2img", "prompt": HOSTILE}))
    record(work / "novel.png", Comment=json.dumps({HOSTILE: [HOSTILE]}), Software="NovelAI")
    record(work / f"{SHORT}.png", parameters=text)
    header(work / "odd.safetensors", HOSTILE, **{HOSTILE: HOSTILE})
    header(work / "kind.safetensors", "unet.x", kind=HOSTILE)
    for name, content in (("one", {"_class_name": HOSTILE}), ("whole", {"name": HOSTILE})):
        (work / name).mkdir()
        (work / name / "config.json").write_text(json.dumps(content))
    (work / "pipeline").mkdir()
    index = {"_class_name": HOSTILE, "unet": [HOSTILE, HOSTILE]}
    (work / "pipeline/model_index.json").write_text(json.dumps(index))
    rows = [{"prompt": HOSTILE, "cfg_scale": HOSTILE}, {"prompt": "a", HOSTILE: 1}, HOSTILE]
    rows += [{"custom_id": HOSTILE, "body": {"prompt": 5}}]
    lines = "\n".join(map(json.dumps, rows))
    (work / "rows.jsonl").write_text(lines)
    np.savez(work / "dump.npz", **{"unet.000/input.sample": np.zeros(1, np.float32)})
    (work / "module.py").write_text(
        f"def x0_from_eps(xt, eps, alpha_bar):\n    raise ValueError({HOSTILE!r})\n"
        f"class Own(float):\n    def __repr__(self):\n        return {HOSTILE!r}\n"
        "def snr(alpha_bar):\n    return Own(1.0)\n"
    )
    (work / "settings.toml").write_text(f"[defaults]\nprompt = {json.dumps(HOSTILE)}\n")
    (work / "table.toml").write_text(f"[{json.dumps(HOSTILE)}]\nx = 1\n")
    model = str(model_folder)
    (work / "named.toml").write_text(f"[defaults]\nmodel = {json.dumps(model + SHORT)}\n")
    return model


COMMANDS = {  # name -> words; MODEL stands for the folder of a tiny model
    "info graph": "info graph.png",
    "info text": "info text.png",
    "info json": "info json.png",
    "info ours": "info ours.png",
    "info novel": "info novel.png",
    "info named": f"info {SHORT}.png",
    "info in json": "info graph.png --json",
    "info tensors": "info odd.safetensors",
    "info listed": "info odd.safetensors --tensors",
    "info type": "info kind.safetensors",
    "info network": "info one",
    "info folder": "info whole",
    "info pipeline": "info pipeline",
    "info missing": f"info {HOSTILE}",
    "run graph": "run --from graph.png -m MODEL",
    "run text": "run --from text.png -m MODEL",
    "run ours": "run --from ours.png -m MODEL",
    "run verbose": "run --from text.png -m MODEL -v",
    "txt2img": f"txt2img {HOSTILE} -m MODEL --steps 1 --seed 1 -o out.png",
    "txt2img named": f"txt2img red -m MODEL --steps 1 --seed 1 -o {SHORT}-new.png",
    "txt2img verbose": f"txt2img red -m MODEL --steps 1 -o {SHORT}-new.png -v",
    "txt2img value": f"txt2img red -m MODEL --cfg {HOSTILE}",
    "txt2img sampler": f"txt2img red -m MODEL --sampler {HOSTILE}",
    "txt2img flag": f"txt2img red -m MODEL --{HOSTILE}",
    "txt2img model": f"txt2img red -m {SHORT}",
    "img2img": f"img2img red -m MODEL -i {SHORT}",
    "command": f"{HOSTILE} --{HOSTILE}",
    "batch": "batch rows.jsonl -m MODEL -o out --dry-run",
    "batch run": f"batch rows.jsonl -m MODEL -o {SHORT}",
    "words": f"words {HOSTILE} -m MODEL",
    "grid": f"grid red -m MODEL --x steps=1 --x {HOSTILE}=1 -o out.png",
    "convert": f"convert odd.safetensors {SHORT}.safetensors",
    "convert model": f"convert MODEL {SHORT}.safetensors",
    "quantize": f"quantize MODEL {SHORT}.safetensors --type {HOSTILE}",
    "ledger": f"ledger MODEL --rule {HOSTILE}",
    "config": "config show --config settings.toml",
    "config table": "config show --config table.toml",
    "config named": "config show --config named.toml",
    "doctor": "doctor",
    "samplers": "samplers",
    "schedules": "samplers --schedules",
    "backends": "backends",
    "guidance": "guidance",
    "sampler of a package": f"txt2img red -m MODEL --sampler {SHORT}",
    "diff": "diff dump.npz",
    "diff missing": f"diff {HOSTILE}",
    "trace show": "trace show odd.safetensors",
    "trace": f"trace red -m MODEL --steps 1 --layers {HOSTILE} -o {SHORT}",
    "check": "check --against module.py --only snr --cases 1",
    "check raises": "check --against module.py --only x0_from_eps --cases 1",
    "check nothing": f"check --only {HOSTILE}",
    "check saved": f"check --against module.py --only x0_from_eps --cases 1 --save {SHORT}.npz",
    "cases": f"cases run {HOSTILE}",
    "passport": f"passport check {HOSTILE}",
    "schedule": f"schedule {HOSTILE}",
    "pitfalls": f"pitfalls {HOSTILE}",
    "differences": f"differences {HOSTILE}",
    "completion": f"completion {HOSTILE}",
    "serve": f"serve -m MODEL --wildcards {SHORT}",
    "serve named": f"serve -m {HOSTILE}=MODEL --wildcards {SHORT}",
    "evaluate": f"evaluate MODEL --data {HOSTILE}",
    "train": f"train {HOSTILE}",
}
HEAVY = ("doctor", "backends")  # of which the controls are looked for in `test_names_of_packages`


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in HEAVY])
def test_commands_print_no_controls(name, files, ldm):
    ran = ldm(*(files if word == "MODEL" else word for word in COMMANDS[name].split(" ")))
    refuse_controls(ran)
    assert ran.out or ran.err


@pytest.mark.parametrize("name", ["samplers", "schedules", "guidance", *HEAVY])
def test_names_of_packages_print_no_controls(name, ldm, tmp_path, monkeypatch):
    folder = tmp_path / "site" / "hostile-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: hos\x9btile\nVersion: 1\u202e\n")
    groups = ("samplers", "schedules", "backends", "guidance")
    lines = [f"[ldmref.{group}]\n{SHORT}{group} = no\x9bwhere:x\n" for group in groups]
    (folder / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder.parent))
    for part in ("run_self_test", "check_backends", "check_embedded_models"):
        monkeypatch.setattr(doctor_module, part, list)
    monkeypatch.setattr("ldmref.backends.available", dict)
    ran = ldm(*COMMANDS[name].split(" "))
    refuse_controls(ran)
    assert "\\x9b" in ran.out, ran.out


def test_the_log_of_the_server_has_no_controls(caplog):
    pytest.importorskip("uvicorn")
    from starlette.testclient import TestClient

    from ldmref.apps.server.app import create_app
    from ldmref.apps.server.engine import Engine

    engine = Engine({"tiny": ldmref.random_model("tiny", backend="numpy")})
    caplog.set_level(logging.INFO)
    with TestClient(create_app(engine), base_url="http://localhost") as client:
        client.get("/v1/%C2%9B%E2%80%AE%1B[2J%0A")
        client.post("/v1/jobs", json={"parameters": {"prompt": HOSTILE, "steps": HOSTILE}})
        client.post("/v1/jobs", json={"parameters": {"prompt": "a", HOSTILE: HOSTILE}})
        client.get("/v1/models", headers={"User-Agent": b"a\x9bb", "X-Other": b"\x1b[2J"})
    text = "\n".join(entry.getMessage() for entry in caplog.records)
    assert text and not {*text} & {*CONTROLS} - {"\n"}, text
