"""Models of Hugging Face: names, the local cache, and what is fetched (a stand-in, a server)."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

import ldmref
from ldmref.apps.cli.main import main
from ldmref.errors import BackendUnavailable, InputError, UnsafeFileError
from ldmref.io import hub
from ldmref.io.diffusers.folder import get_model_name, select_weight_names
from ldmref.io.hub import HubReference
from ldmref.io.locate import find_model

OLD = "0" * 40
NEW = "1" * 40
REPOSITORY = {  # as stable-diffusion-v1-5 has them
    "model_index.json": "{}",
    "README.md": "",
    "v1-5-pruned.safetensors": "file",
    "v1-5-pruned.ckpt": "pickle",
    "feature_extractor/preprocessor_config.json": "{}",
    "safety_checker/config.json": "{}",
    "safety_checker/model.safetensors": "",
    "scheduler/scheduler_config.json": "{}",
    "text_encoder/config.json": "{}",
    "text_encoder/model.safetensors": "text",
    "text_encoder/model.fp16.safetensors": "text16",
    "text_encoder/pytorch_model.bin": "pickle",
    "tokenizer/merges.txt": "",
    "tokenizer/special_tokens_map.json": "{}",
    "tokenizer/tokenizer_config.json": "{}",
    "tokenizer/vocab.json": "{}",
    "unet/config.json": "{}",
    "unet/diffusion_pytorch_model.safetensors": "unet",
    "unet/diffusion_pytorch_model.fp16.safetensors": "unet16",
    "unet/diffusion_pytorch_model.non_ema.safetensors": "unet last",
    "unet/diffusion_pytorch_model.bin": "pickle",
    "vae/config.json": "{}",
    "vae/diffusion_pytorch_model.safetensors": "vae",
    "vae/diffusion_pytorch_model.fp16.safetensors": "vae16",
}
READ = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and nothing of the caller's."""
    for name in ("HF_HOME", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache, files, commit=NEW, reference="main", repository="owner/model"):
    """Files in the cache as the hub lays them out: blobs, a commit with links to them, a name."""
    base = cache / f"models--{repository.replace('/', '--')}"
    for name, text in files.items():
        blob = base / "blobs" / hashlib.sha256(text.encode()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_text(text)
        link = base / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if reference:
        (base / "refs" / reference).parent.mkdir(parents=True, exist_ok=True)
        (base / "refs" / reference).write_text(commit)
    return base / "snapshots" / commit


@pytest.mark.parametrize(
    "name, reference",
    [
        ("owner/model", HubReference("owner/model")),
        ("owner/model@fp16", HubReference("owner/model", "", "fp16")),
        ("owner/model@refs/pr/4", HubReference("owner/model", "", "refs/pr/4")),
        ("owner/v1.5/a/b.safetensors", HubReference("owner/v1.5", "a/b.safetensors")),
        ("o/m/b.safetensors@v2", HubReference("o/m", "b.safetensors", "v2")),
    ],
)
def test_names_of_models_on_the_hub(name, reference):
    assert hub.parse_reference(name) == reference


@pytest.mark.parametrize(
    "name",
    [
        "",
        "model",
        "/model",
        "owner/",
        "owner/model/",
        "../model",
        "owner/..",
        "owner/model/sub",
        "owner/model/a.ckpt",
        "owner/model/../x.safetensors",
        "owner/model@../x",
        "owner/model@",
        "/a/b.safetensors",
        "folder/v1-5.safetensors",
        "a b/c",
        "~/models/x",
        "owner/model@-/..",
        "./a/b.safetensors",
        "C:\\models\\x",
    ],
)
def test_names_that_cannot(name):
    assert hub.parse_reference(name) is None


def test_the_cache_is_read_as_the_hub_writes_it(cache):
    assert hub.find_cached(HubReference("owner/model")) is None
    old = put(cache, {"model_index.json": "{}", "x.safetensors": "old"}, OLD, "v1")
    new = put(cache, {"model_index.json": "{}", "x.safetensors": "new"}, NEW)
    os.utime(old)  # the younger one, but main names the other
    assert hub.find_cached(HubReference("owner/model")) == new
    assert hub.find_cached(HubReference("owner/model", revision="v1")) == old
    assert hub.find_cached(HubReference("owner/model", revision=OLD)) == old
    assert hub.find_cached(HubReference("owner/model", revision="v2")) is None
    found = hub.find_cached(HubReference("owner/model", "x.safetensors", "v1"))
    assert found is not None and found.read_text() == "old" and found.suffix == ".safetensors"
    assert hub.find_cached(HubReference("owner/model", "y.safetensors")) is None
    assert get_model_name(new) == "model" and get_model_name(Path("a/b")) == "b"


def test_the_cache_is_where_the_hub_looks(cache, monkeypatch):
    theirs = pytest.importorskip("huggingface_hub")
    put(cache, {"model_index.json": "{}"}, OLD, "refs/pr/1")
    new = put(cache, {"model_index.json": "{}", "x.safetensors": "x"})
    options = {"cache_dir": cache, "filename": "model_index.json", "repo_id": "owner/model"}
    for revision in ("", "refs/pr/1", OLD):
        found = theirs.try_to_load_from_cache(**options, revision=revision or None)
        ours = hub.find_cached(HubReference("owner/model", revision=revision))
        assert ours is not None and Path(found) == ours / "model_index.json"
    assert hub.find_cached(HubReference("owner/model")) == new


class Stand:
    """The parts of huggingface_hub that are called, with a record of the calls."""

    def __init__(self, monkeypatch, cache, files=REPOSITORY, error=None):
        self.calls = []
        self.cache = cache
        self.files = files
        self.error = error
        self.errors = types.ModuleType("huggingface_hub.errors")
        base = {
            "RepositoryNotFoundError": OSError,
            "RevisionNotFoundError": OSError,
            "EntryNotFoundError": Exception,
        }
        for name, parent in base.items():
            setattr(self.errors, name, type(name, (parent,), {}))
        for name, parent in (
            ("GatedRepoError", "RepositoryNotFoundError"),
            ("LocalEntryNotFoundError", "EntryNotFoundError"),
        ):
            setattr(self.errors, name, type(name, (getattr(self.errors, parent),), {}))
        module = types.ModuleType("huggingface_hub")
        vars(module).update(
            HfApi=self.api,
            snapshot_download=self.snapshot,
            hf_hub_download=self.download,
            errors=self.errors,
        )
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)
        monkeypatch.setitem(sys.modules, "huggingface_hub.errors", self.errors)

    def api(self, library_name):
        def model_info(repository, revision=None):
            self.calls.append(("info", repository, revision))
            if self.error is not None:
                raise self.error
            siblings = [types.SimpleNamespace(rfilename=name) for name in self.files]
            return types.SimpleNamespace(siblings=siblings)

        return types.SimpleNamespace(model_info=model_info)

    def snapshot(self, repository, allow_patterns, revision=None, library_name=None):
        self.calls.append(("snapshot", repository, revision))
        self.patterns = allow_patterns
        chosen = {n: t for n, t in self.files.items() if n in allow_patterns}
        return str(put(self.cache, chosen, reference=revision or "main"))

    def download(self, repository, file, revision=None, library_name=None):
        self.calls.append(("file", repository, file, revision))
        if self.error is not None:
            raise self.error
        return str(put(self.cache, {file: "x"}, reference=revision or "main") / file)


def test_only_what_is_read_is_fetched(monkeypatch, cache):
    stand = Stand(monkeypatch, cache)
    found = find_model("owner/model@v1", fetch=True)
    assert stand.calls == [("info", "owner/model", "v1"), ("snapshot", "owner/model", "v1")]
    assert set(stand.patterns) == READ
    assert {str(p.relative_to(found)) for p in found.rglob("*") if p.is_file()} == READ
    half = hub.select_files(list(REPOSITORY), "owner/model", "fp16")
    assert {n for n in half if n.endswith("s") and "16" in n} == {
        n for n in REPOSITORY if ".fp16." in n
    }
    assert len(half) == len(READ)


def test_one_file_is_fetched(monkeypatch, cache):
    stand = Stand(monkeypatch, cache)
    found = find_model("owner/model/v1-5.safetensors@v1", fetch=True)
    assert found.name == "v1-5.safetensors" and found.read_text() == "x"
    assert stand.calls == [("file", "owner/model", "v1-5.safetensors", "v1")]


def test_nothing_is_fetched_unasked(monkeypatch, cache, tmp_path):
    stand = Stand(monkeypatch, cache)
    for name in ("owner/model", "owner/model/v1-5.safetensors"):
        with pytest.raises(InputError, match="no model") as caught:
            ldmref.load(name, backend="numpy")
        assert "fetch=True (--fetch)" in caught.value.hint
    snapshot = put(cache, {"model_index.json": "{}"})
    assert find_model("owner/model") == snapshot
    with pytest.raises(InputError, match="no model 'missing'"):
        ldmref.load("missing", fetch=True)
    assert ldmref.load(fetch=True).config.name == "emoji-128"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner/model").mkdir(parents=True)
    (tmp_path / "owner/model/config.json").touch()  # a folder that is here comes first
    assert find_model("owner/model", fetch=True) == Path("owner/model")
    assert stand.calls == []


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BackendUnavailable, match="needs huggingface_hub") as caught:
        ldmref.load("owner/model", fetch=True)
    assert caught.value.hint == "pip install huggingface_hub"


@pytest.mark.parametrize(
    "error, what, hint",
    [
        ("GatedRepoError", "accepted its terms", "https://huggingface.co/owner/model"),
        ("RepositoryNotFoundError", "has no model owner/model", "check the name"),
        ("RevisionNotFoundError", "no revision 'v1'", "branches and tags"),
        ("LocalEntryNotFoundError", "cannot be fetched: two lines", "network"),
        ("EntryNotFoundError", "has no file 'a.safetensors'", "tree/main"),
        ("ConnectError", "cannot be fetched: two lines", "network"),
    ],
)
@pytest.mark.parametrize("name", ["owner/model@v1", "owner/model/a.safetensors@v1"])
def test_what_goes_wrong_is_one_line(monkeypatch, cache, name, error, what, hint):
    stand = Stand(monkeypatch, cache)
    kind = getattr(stand.errors, error, type(error, (Exception,), {}))
    stand.error = kind("two\nlines")
    if error == "EntryNotFoundError" and "safetensors" not in name:
        return
    with pytest.raises(InputError, match=what) as caught:
        ldmref.load(name, fetch=True)
    assert hint in caught.value.hint and caught.value.code == "E-FETCH"
    assert "\n" not in str(caught.value) + caught.value.hint


def test_without_a_network_the_cache_is_taken(monkeypatch, cache):
    Stand(monkeypatch, cache, error=ConnectionError("no network"))
    snapshot = put(cache, {"model_index.json": "{}", "a.safetensors": ""})
    assert find_model("owner/model", fetch=True) == snapshot
    found = find_model("owner/model/a.safetensors", fetch=True)
    assert found == snapshot / "a.safetensors"


def test_repositories_that_hold_nothing_to_read():
    with pytest.raises(InputError, match=r"has no model_index\.json") as caught:
        hub.select_files(["README.md", "a.safetensors", "b.ckpt"], "owner/model")
    assert caught.value.hint == "give one of its files: a.safetensors"
    pickles = [n for n in REPOSITORY if not n.endswith(".safetensors")]
    with pytest.raises(UnsafeFileError, match="pickles"):
        hub.select_files(pickles, "owner/model")
    with pytest.raises(InputError, match="no variant 'bf16'") as caught:
        hub.select_files(list(REPOSITORY), "owner/model", "bf16")
    assert caught.value.hint == "give variant= (--variant) '' or 'fp16' or 'non_ema'"


def test_weights_of_a_folder():
    def names(files, variant=None):
        return select_weight_names(files, "model", "text_encoder", variant)

    whole = "model.safetensors"
    half = "model.fp16.safetensors"
    assert names([half, whole, "other.safetensors"]) == [whole]
    assert names([half, whole], "fp16") == [half] == names([half, "model.onnx"])
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = "model.safetensors.index.json"
    assert names([*shards, index, half]) == [index, *shards]
    for v in ("model.fp16-0000{}-of-00002.safetensors", "model-0000{}-of-00002.fp16.safetensors"):
        small = [v.format(i) for i in (1, 2)]
        other = "model.safetensors.index.fp16.json"
        assert names([*small, other, *shards, index], "fp16") == [other, *small]
        assert names([*small, other, *shards, index]) == [index, *shards]
        assert names([*small, other]) == [other, *small]
    with pytest.raises(InputError, match="several variants"):
        names([half, "model.bf16.safetensors"])


class Server(http.server.BaseHTTPRequestHandler):
    """The few answers of Hugging Face that fetching needs."""

    asked: list[str]

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.asked.append(f"{self.command} {self.path}")
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] != ["api", "models"]:
            file = REPOSITORY.get("/".join(parts[4:]))
            return self.answer(file, {} if file is not None else {"X-Error-Code": "EntryNotFound"})
        if parts[2:4] != ["owner", "model"]:
            return self.answer(None, {"X-Error-Code": "RepoNotFound"})
        if parts[4:5] == ["tree"]:
            rows = [
                {"type": "file", "path": n, "size": len(t), "oid": oid(t)}
                for n, t in REPOSITORY.items()
            ]
        else:
            siblings = [{"rfilename": name} for name in REPOSITORY]
            rows = {"id": "owner/model", "sha": NEW, "siblings": siblings}
        return self.answer(json.dumps(rows))

    def answer(self, text, headers=()):
        body = (text or "").encode()
        self.send_response(404 if text is None else 200)
        ours = {"Content-Length": str(len(body)), "X-Repo-Commit": NEW, "ETag": f'"{oid(body)}"'}
        for key, value in (ours | dict(headers)).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def oid(text):
    return hashlib.sha1(text if isinstance(text, bytes) else text.encode()).hexdigest()


FETCH = """
import sys
from ldmref.errors import InputError
from ldmref.io.locate import find_model
folder = find_model("owner/model", fetch=True)
print(folder)
print(*sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()))
print(find_model("owner/model") == folder, find_model("owner/model@main", fetch=True) == folder)
print(find_model("owner/model/v1-5-pruned.safetensors", fetch=True).read_text())
for name in ("owner/other", "owner/model/none.safetensors"):
    try:
        find_model(name, fetch=True)
    except InputError as error:
        print(error)
"""


def test_the_real_package_fetches_from_a_server(cache):
    """Also from one that is gone: then the cache serves."""
    pytest.importorskip("huggingface_hub")
    kind = type("Handler", (Server,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = f"http://127.0.0.1:{server.server_address[1]}"
        env = os.environ | {
            "HF_ENDPOINT": there,
            "NO_PROXY": "127.0.0.1",
            "HF_HUB_DISABLE_XET": "1",
        }
        env |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HOME": str(cache.parent / "home")}
        ran = subprocess.run([sys.executable, "-c", FETCH], env=env, capture_output=True, text=True)
        server.shutdown()
    assert ran.returncode == 0, ran.stderr
    folder, files, same, one, *errors = ran.stdout.splitlines()
    assert Path(folder) == cache / "models--owner--model" / "snapshots" / NEW
    assert set(files.split()) == READ and same == "True True" and one == "file"
    assert errors == [
        "Hugging Face has no model owner/other, or it is private",
        "owner/model has no file 'none.safetensors'",
    ]
    got = {
        line.split("/resolve/")[1].split("/", 1)[1] for line in kind.asked if "/resolve/" in line
    }
    assert got == READ | {"v1-5-pruned.safetensors", "none.safetensors"}
    again = "from ldmref.io.locate import find_model; print(find_model('owner/model', fetch=True))"
    ran = subprocess.run([sys.executable, "-c", again], env=env, capture_output=True, text=True)
    assert ran.stdout.strip() == folder, ran.stderr


def test_command_line(monkeypatch, cache, capsys):
    stand = Stand(monkeypatch, cache, error=ConnectionError("no network"))
    assert main(["txt2img", "-m", "owner/model", "-p", "cat"]) == 3
    assert "--fetch" in capsys.readouterr().err and stand.calls == []
    assert main(["txt2img", "-m", "owner/model", "--fetch", "-p", "cat"]) == 3
    assert "owner/model cannot be fetched: no network" in capsys.readouterr().err
    assert main(["info", "owner/model", "--fetch"]) == 3
    assert "cannot be fetched" in capsys.readouterr().err
    calls = len(stand.calls)
    assert main(["info", "owner/model"]) == 3 and len(stand.calls) == calls == 2


@pytest.mark.parametrize("folder", ["tokenizer", "tokenizer_2"])
def test_every_file_that_a_tokenizer_may_have_is_fetched(folder):
    """Words added to a vocabulary and BERT's are also fetched; nothing else of the folder is."""
    names = [
        "vocab.json",
        "merges.txt",
        "tokenizer.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
        "added_tokens.json",
        "vocab.txt",
    ]
    files = [f"{folder}/{name}" for name in names]
    found = hub.select_files([*REPOSITORY, *files, f"{folder}/README.md"], "owner/model")
    assert {name for name in found if name.startswith(f"{folder}/")} == set(files)
