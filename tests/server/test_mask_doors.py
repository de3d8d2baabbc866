"""A mask means the same in Python, on the command line and in every API, in every format.

tests/page/test_page_masks.py asks the page the same.
"""

import base64
import json
from urllib.parse import unquote

import numpy as np
import pytest
from mask_files import OTHER_SIZE, SIZE, make_mask_files, make_small_mask, record_masks
from PIL import Image
from replaying import encode, to_base64

from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.io.native import save_folder

MASKS = make_mask_files()
PHOTO = Image.fromarray(np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8))


@pytest.fixture(scope="module")
def server(serve_once, tiny):
    return serve_once({"tiny": tiny})


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_folder(folder, tiny.config, tiny.params, [tiny.tokenizer], np.float32)
    PHOTO.save(folder.parent / "photo.png")
    return folder


def ask_python(path, tiny, server, folder, capfd):
    return modes.inpaint(tiny, "a", PHOTO, path, steps=1, seed=1).warnings


def ask_command(path, tiny, server, folder, capfd):
    words = ["inpaint", "a", "-m", str(folder), "-i", str(folder.parent / "photo.png")]
    more = ["--mask", str(path), "--steps", "1", "--seed", "1", "-o", str(path.parent / "o.png")]
    assert main([*words, *more]) == 0
    return [capfd.readouterr().err]


def ask_native(path, tiny, server, folder, capfd):
    given = {"prompt": "a", "steps": 1, "seed": 1}
    given |= {"image": to_base64(PHOTO), "mask": to_base64_file(path)}
    answer = server.client.post(
        "/v1/jobs", json={"kind": "generate", "mode": "inpaint", "parameters": given}
    )
    assert answer.status_code < 300, answer.text
    return server.finish(answer.json()["id"])["warnings"]


def ask_a1111(path, tiny, server, folder, capfd):
    body = {"prompt": "a", "steps": 1, "init_images": [to_base64(PHOTO)], "mask_blur": 0}
    sizes = {"width": SIZE, "height": SIZE, "inpaint_full_res": False, "denoising_strength": 1}
    answer = server.client.post(
        "/sdapi/v1/img2img", json=body | sizes | {"mask": to_base64_file(path)}
    )
    assert answer.status_code == 200, answer.text
    return json.loads(answer.json()["info"])["warnings"]


def ask_openai(path, tiny, server, folder, capfd):
    files = {"image": ("a.png", encode(PHOTO)), "mask": ("b.png", path.read_bytes())}
    answer = server.client.post("/v1/images/edits", data={"prompt": "a", "steps": "1"}, files=files)
    if answer.status_code == 400:
        assert "no alpha channel" in answer.text
        return None
    assert answer.status_code == 200, answer.text
    return [unquote(answer.headers.get("ldmref-warning", ""))]


def to_base64_file(path):
    return base64.b64encode(path.read_bytes()).decode()


DOORS = {
    "Python": ask_python,
    "command line": ask_command,
    "native": ask_native,
    "A1111": ask_a1111,
}


@pytest.mark.parametrize("title", MASKS)
def test_every_format_means_the_same_through_every_door(
    title, tiny, server, folder, tmp_path, capfd, monkeypatch
):
    mask = MASKS[title]
    path = mask.save(tmp_path)
    read_last = record_masks(monkeypatch)
    for door, ask in DOORS.items():
        warnings = ask(path, tiny, server, folder, capfd)
        assert (read_last() == mask.painted).all(), door
        said = [line for line in warnings if "transparen" in line]
        assert len(said) == bool(mask.says) and all(mask.says in line for line in said), door
    answer = ask_openai(path, tiny, server, folder, capfd)
    if mask.edited is None:
        assert answer is None
    else:
        assert (read_last() == mask.edited).all()


def test_a_mask_of_another_size_is_stretched_and_said(
    tiny, server, folder, tmp_path, capfd, monkeypatch
):
    small, painted = make_small_mask()
    path = tmp_path / "small.png"
    read_last = record_masks(monkeypatch)
    small.save(path)
    for door, ask in DOORS.items():
        warnings = ask(path, tiny, server, folder, capfd)
        assert (read_last() == painted).all(), door
        assert any(OTHER_SIZE in line for line in warnings), door
    clear = Image.new("L", small.size)
    clear.putalpha(small.point(lambda value: 255 - value))
    clear.save(path)
    (warning,) = ask_openai(path, tiny, server, folder, capfd)
    assert (read_last() == painted).all() and OTHER_SIZE in warning


def test_black_is_kept_bit_for_bit_below_one_pixel_of_transparency(tiny):
    mask = Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 255))
    mask.paste((255, 255, 255, 255), (0, 0, SIZE // 2, SIZE))
    mask.putpixel((SIZE - 1, SIZE - 1), (0, 0, 0, 254))
    result = modes.inpaint(tiny, "a", PHOTO, mask, steps=1, seed=1)
    kept = np.asarray(result[0])[:, SIZE // 2 :]
    assert (kept == np.asarray(PHOTO)[:, SIZE // 2 :]).all()
    assert (np.asarray(result[0]) != np.asarray(PHOTO)).any()
