"""`ldmref batch`: flags, exit codes, what is printed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
from batches import make_rows, read_folder, read_jsonl, write_rows

from ldmref.apps.cli.main import main


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Return a working folder with requests.jsonl, without settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith(("LDMREF_", "XDG_"))]:
        monkeypatch.delenv(name)
    write_rows(tmp_path / "requests.jsonl", make_rows(9))
    return tmp_path


@pytest.fixture
def batch(work, tiny_folder, capfd):
    """`batch(...)` runs the command: exit code, standard output and error."""

    def run(*flags, requests="requests.jsonl", model=tiny_folder):
        named = () if model is None else ("-m", str(model))
        code = main(["batch", requests, *named, *map(str, flags)])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_batch_and_its_second_run(batch, work):
    code, out, err = batch("-o", "new/out")
    assert (code, out) == (0, "") and "new/out/manifest.jsonl  9 rows: 9 generated" in err
    before = read_folder(work / "new/out")
    code, out, err = batch("-o", "new/out")
    assert code == 0 and "9 rows: 9 verified" in err
    assert read_folder(work / "new/out") == before


def test_wrong_rows_have_their_own_exit_code(batch, work):
    write_rows(work / "requests.jsonl", make_rows(12))
    code, _, err = batch("-o", "out")
    assert code == 9
    assert "ldmref: line 10 (row 9): E-STEPS: steps must be from 1 to 1000, not 0" in err
    assert "error[E-ROWS]: 1 of 12 rows failed: see out/errors.jsonl" in err
    assert read_jsonl(work / "out/errors.jsonl")[0]["line"] == 10


def test_json_has_a_line_per_image_and_error_and_a_summary(batch, work):
    write_rows(work / "requests.jsonl", make_rows(12))
    code, out, _ = batch("-o", "out", "--json", "-q")
    *lines, summary, error = map(json.loads, out.splitlines())
    manifest = read_jsonl(work / "out/manifest.jsonl")
    images = [line for line in lines if "file" in line]
    assert all(line.pop("seconds") > 0 for line in images)
    assert sorted(map(str, images)) == sorted(map(str, manifest))
    assert [line["error"]["line"] for line in lines if "error" in line] == [10]
    assert summary["summary"]["generated"] == 11 and summary["summary"]["rows"] == 12
    assert error["error"]["exit"] == code == 9


def test_a_dry_run_checks_everything_and_writes_nothing(batch, work):
    write_rows(work / "requests.jsonl", make_rows(12))
    code, out, err = batch("-o", "out", "--dry-run")
    assert code == 9 and not (work / "out").exists() and out == ""
    assert "12 rows: 0 done, 11 to generate (13 images), 1 wrong; at least" in err
    code, out, _ = batch("-o", "out", "--dry-run", "--json")
    assert json.loads(out.splitlines()[1])["check"]["left"] == 11
    write_rows(work / "requests.jsonl", make_rows(9))
    assert batch("-o", "out", "--dry-run")[0] == 0


def test_rows_from_standard_input_and_the_embedded_model(batch, work, monkeypatch):
    row = b'{"prompt": "red heart", "steps": 1, "seed": 1}\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(row)))
    code, _, err = batch("-o", "out", requests="-", model=None)
    assert code == 0, err
    assert main(["txt2img", "red heart", "--steps", "1", "--seed", "1", "-o", "one.png"]) == 0
    [image] = (work / "out/images").iterdir()
    assert image.read_bytes() == (work / "one.png").read_bytes()


def test_paths_are_relative_to_the_file_of_requests(batch, work, monkeypatch):
    (work / "elsewhere").mkdir()
    monkeypatch.chdir(work / "elsewhere")
    assert batch("-o", "out", requests="../requests.jsonl")[0] == 0
    assert (work / "elsewhere/out/manifest.jsonl").exists()


def test_settings_complete_rows_and_rows_override_them(batch, work):
    (work / "ldmref.toml").write_text("[defaults]\nsteps = 2\nsampler = 'euler'\ncount = 2\n")
    (work / "requests.jsonl").write_text(
        '{"prompt": "cat"}\n{"prompt": "cat", "steps": 1, "seed": [4, 5, 6]}\n'
    )
    assert batch("-o", "out")[0] == 0
    lines = read_jsonl(work / "out/manifest.jsonl")
    assert [line["params"]["steps"] for line in lines] == [2, 2, 1, 1, 1]
    assert {line["params"]["sampler"] for line in lines} == {"euler"}
    assert [line["params"]["seed"] for line in lines[2:]] == [4, 5, 6]


def test_shards_are_written_as_fractions(batch, work):
    assert batch("-o", "whole")[0] == 0
    assert batch("-o", "out", "--shard", "1/2")[0] == 0
    assert (work / "out/manifest-1-of-2.jsonl").exists()
    assert batch("-o", "out", "--shard", "2/2", "--executor", "process")[0] == 0
    assert batch("-o", "out")[0] == 0
    assert read_folder(work / "out") == read_folder(work / "whole")


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        ((), 2, "Missing option '-o'"),
        (("-o", "out", "--shard", "0/4"), 2, "part i of n"),
        (("-o", "out", "--shard", "1-4"), 2, "cannot read the shard"),
        (("-o", "out", "--executor", "proces"), 2, "did you mean 'process'?"),
        (("-o", "out", "--workers", "2"), 2, "serial has one worker"),
        (("-o", "out", "--threads", "0"), 2, "--threads must be from 1"),
        (("-o", "out", "--address", "localhost:1"), 2, "belongs to the executor ray"),
        (("-o", "requests.jsonl"), 8, "cannot write into the folder"),
        (("-o", "out", "--dtype", "float8"), 2, "float8"),
        (("-o", "out", "--retry-error"), 2, "--retry-errors"),
    ],
    ids=str,
)
def test_wrong_flags_are_one_line(batch, work, flags, code, text):
    before = sorted(work.iterdir())
    got, _, err = batch(*flags)
    assert got == code and text in err and "Traceback" not in err, err
    assert sorted(work.iterdir()) == before


def test_a_missing_file_or_model_is_one_line(batch, work):
    assert batch("-o", "out", requests="no.jsonl")[0] == 3
    assert batch("-o", "out", model=work / "no.safetensors")[0] == 3
    assert not (work / "out").exists()


def test_a_folder_in_use_is_refused(batch, work):
    from ldmref.batch.folder import BatchFolder

    with BatchFolder(work / "out").locked():
        code, _, err = batch("-o", "out")
    assert code == 8 and "another ldmref batch writes into 'out'" in err


def test_verbose_names_every_row_and_progress_counts_them(batch):
    _, _, err = batch("-o", "out", "-v", "--progress", "plain")
    assert "line 1  images/row-0-" in err and "9/9 rows, 0.0 s left" in err


def test_ray_and_multiprocessing_are_not_imported_unless_named():
    code = (
        "import sys\nimport ldmref.apps.cli.main, ldmref.batch\n"
        "dict(ldmref.apps.cli.main.cli.commands)\n"
        "heavy = {'ray', 'torch', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_without_ray_the_executor_names_the_extra(batch, monkeypatch):
    monkeypatch.setattr("ldmref.batch.ray.find_spec", lambda name: None)
    code, _, err = batch("-o", "out", "--executor", "ray")
    assert code == 5 and "pip install 'ldmref[ray]'" in err
