"""Copied code: Python, the command and curl write the bytes that the page downloads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ODD = """a "cat" & 'dog' — 🐶 $HOME `id` \\n %s\nsecond line, end"""
COMMAND = Path(sys.executable).with_name("ldmref")


def generate(page):
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("button", name="Download", exact=True).wait_for()


def download(page, folder):
    """Save the image of the page, and return its bytes."""
    with page.expect_download() as got:
        page.get_by_role("button", name="Download", exact=True).click()
    return got.value.path().read_bytes()


def copy(page, kind, folder):
    """Copy the code, and save the files that it reads."""
    page.get_by_role("radio", name=kind).check(force=True)
    page.get_by_role("button", name="Copy", exact=True).click()
    code = page.get_by_role("region", name="Copy as code")
    for button in code.locator("button.link").all():
        with page.expect_download() as got:
            button.click()
        got.value.save_as(folder / got.value.suggested_filename)
    return page.evaluate("navigator.clipboard.readText()")


def run(kind, text, folder):
    """Run copied code in a folder, with a user's environment."""
    if kind == "curl" and shutil.which("curl") is None:
        pytest.skip("the page: no curl on this machine")
    search = f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": search, "LDMREF_BACKEND": "numpy", "PYTHONUTF8": "1"}
    if kind == "Python":
        (folder / "copied.py").write_text(text, "utf-8")
        command = [sys.executable, "copied.py"]
    else:
        command = ["sh", "-c", text]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=120)
    assert ran.returncode == 0, ran.stderr.decode()


@pytest.fixture
def page(new_context, server):
    """The page of the tiny model, with the clipboard."""
    context = new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(server.url)
    page.get_by_label("Prompt", exact=True).wait_for()
    return page


@pytest.mark.parametrize("kind", ["Python", "Command", "curl"])
def test_any_prompt(kind, page, tmp_path):
    page.get_by_label("Prompt", exact=True).fill(ODD)
    page.get_by_label("Negative prompt", exact=True).fill("-x 'y'")
    page.get_by_label("Steps", exact=True).fill("2")
    page.get_by_label("Sampler", exact=True).select_option("euler_a")
    generate(page)
    wanted = download(page, tmp_path)
    run(kind, copy(page, kind, tmp_path), tmp_path)
    [written] = tmp_path.glob("*.png")
    assert written.read_bytes() == wanted


@pytest.mark.parametrize("kind", ["Python", "Command", "curl"])
def test_every_kind_of_parameter(kind, page, tmp_path):
    """Lists, objects, flags, numbers; the third of several images."""
    page.get_by_label("Prompt", exact=True).fill("a cat")
    page.get_by_label("Images", exact=True).fill("3")
    page.get_by_text("More settings").click()
    page.get_by_label("Guidance", exact=True).select_option("rescale")
    page.get_by_label("phi", exact=True).fill("0.5")
    page.get_by_label("Sigmas", exact=True).fill("10, 3, 1, 0")
    page.get_by_label("Strict prompt", exact=True).check()
    page.get_by_label("Clip skip", exact=True).fill("1")
    generate(page)
    page.get_by_role("button", name="Show image 3").click()
    wanted = download(page, tmp_path)
    text = copy(page, kind, tmp_path)
    run(kind, text, tmp_path)
    [written] = tmp_path.glob("*-2.png")
    assert written.read_bytes() == wanted
    assert written.name in text


@pytest.mark.parametrize("kind", ["Python", "Command", "curl"])
def test_image_and_mask_are_files_beside_it(kind, page, server, tmp_path):
    photo = tmp_path / "given.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(noise).save(photo)
    folder = tmp_path / "run"
    folder.mkdir()
    page.goto(server.url + "/#view=paint&p.prompt=a+cat&p.steps=3&p.fill=noise")
    page.locator("[data-parameter=image] input[type=file]").set_input_files(photo)
    page.get_by_label("Size", exact=True).fill("6")
    page.get_by_role("application", name="Mask").click()
    generate(page)
    wanted = download(page, tmp_path)
    run(kind, copy(page, kind, folder), folder)
    [written] = [path for path in folder.glob("*.png") if "mask" not in path.name]
    assert written.read_bytes() == wanted


@pytest.mark.parametrize("kind", ["Python", "Command", "curl"])
def test_images_between_two_prompts(kind, page, server, tmp_path):
    page.goto("about:blank")
    page.goto(server.url + "/#mode=interpolate&p.prompt=a+cat&p.prompt_b=a+dog&p.steps=2")
    page.get_by_label("Positions", exact=True).fill("0, 0.25, 1")
    generate(page)
    page.get_by_role("button", name="Show image 2").click()
    wanted = download(page, tmp_path)
    run(kind, copy(page, kind, tmp_path), tmp_path)
    [written] = tmp_path.glob("*-1.png")
    assert written.read_bytes() == wanted


def test_the_embedded_model_is_the_default(serve_page, new_context, tmp_path):
    """As on `ldmref serve`: the copied Python does not name a model."""
    import ldmref

    server = serve_page({"emoji": ldmref.load(backend="numpy")}, {"emoji": "emoji"})
    context = new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(server.url + "/#p.steps=2")
    page.get_by_role("button", name="red heart").click()
    generate(page)
    wanted = download(page, tmp_path)
    text = copy(page, "Python", tmp_path)
    assert "ldmref.load()" in text
    run("Python", text, tmp_path)
    [written] = tmp_path.glob("red-heart-*.png")
    assert written.read_bytes() == wanted
    assert Image.open(written).size == (128, 128)


def test_flags_are_those_of_the_commands():
    """Also of parameters whose flags the commands declare themselves."""
    from ldmref.apps.cli.main import cli
    from ldmref.apps.server.native import command_flags
    from ldmref.modes.registry import MODES

    for mode in MODES:
        options = {
            name
            for param in cli.commands[mode].params
            for name in (*param.opts, *param.secondary_opts)
        }
        for flag in command_flags(mode).values():
            assert set(flag.values()) <= options
