"""The live preview: what terminals are asked, what they and files are given, and when."""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from processes import LDMREF, POSIX, environment

from ldmref.apps.cli import preview as preview_module
from ldmref.apps.cli.preview import (
    QUERY,
    FilePreview,
    LivePreview,
    detect_protocol,
    kitty_bytes,
    side_by_side,
    sixel_bytes,
)

KITTY_ANSWER = b"\x1b_Gi=31;OK\x1b\\\x1b[?62;c"
SIXEL_ANSWER = b"\x1b[?63;1;2;4;9c"
PLAIN_ANSWER = b"\x1b[?64;1;2c"


def noise(height, width, colours=40):
    draw = np.random.default_rng(height * width)
    palette = draw.integers(0, 256, (colours, 3), np.uint8)
    return Image.fromarray(palette[draw.integers(0, colours, (height, width))])


# -- what a terminal shows ------------------------------------------------------------------------


def decoded_sixel(data):
    """Return the pixels that a terminal shows: an independent reading of the VT340 manual."""
    body = re.fullmatch(rb'\x1bP0;1q"1;1;(\d+);(\d+)(.*)\x1b\\', data, re.DOTALL)
    width = int(body[1])
    height = int(body[2])
    canvas = np.zeros((height + 5, width, 3), np.int64)
    palette = {}
    colour = None
    x = y = 0
    for token in re.findall(rb"#\d+(?:;2;\d+;\d+;\d+)?|!\d+[?-~]|[?-~]|\$|-", body[3]):
        if token[:1] == b"#":
            number, *rest = [int(n) for n in token[1:].split(b";")]
            colour = number
            if rest:
                palette[number] = rest[1:]
        elif token == b"$":
            x = 0
        elif token == b"-":
            x = 0
            y = y + 6
        else:
            times = int(token[1:-1]) if token[:1] == b"!" else 1
            bits = token[-1] - 63
            for row in range(6):
                if bits >> row & 1:
                    canvas[y + row, x : x + times] = palette[colour]
            x += times
            assert x <= width
    return canvas[:height]


@pytest.mark.parametrize("size", [(6, 8), (13, 7), (1, 1), (12, 30)])
def test_sixel(size):
    image = noise(*size)
    shown = decoded_sixel(sixel_bytes(image)) / 100 * 255
    assert abs(shown - np.asarray(image)).max() <= 255 / 200 + 1e-9  # rounded to whole per cent


def test_sixel_of_one_colour_is_short():
    assert len(sixel_bytes(Image.new("RGB", (600, 6), "red"))) < 60


@pytest.mark.parametrize("size", [(4, 4), (200, 200)])
def test_kitty(size):
    image = noise(*size)
    escapes = re.findall(rb"\x1b_G([^;]*);([^\x1b]*)\x1b\\", kitty_bytes(image, 7, 12))
    assert all(len(data) <= 4096 for _, data in escapes)
    assert escapes[0][0].startswith(b"a=T,f=100,i=7,p=1,q=2,C=1,r=12,m=")
    assert [control[-3:] for control, _ in escapes] == [b"m=1"] * (len(escapes) - 1) + [b"m=0"]
    png = base64.standard_b64decode(b"".join(data for _, data in escapes))
    assert (np.asarray(Image.open(io.BytesIO(png))) == np.asarray(image)).all()


# -- which terminal it is -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"TERM": "dumb"},
        {"TERM": "linux"},
        {"TERM": "xterm", "TMUX": "1"},
        {"TERM": "xterm", "STY": "1"},
    ],
)
def test_terminals_that_are_not_asked(environ, monkeypatch):
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("ldmref.apps.cli.preview._query", lambda query: pytest.fail("asked"))
    assert detect_protocol(environ) == ""


def test_without_a_terminal_nothing_is_asked(monkeypatch):
    monkeypatch.setattr("ldmref.apps.cli.preview._query", lambda query: pytest.fail("asked"))
    assert detect_protocol({"TERM": "xterm-kitty"}) == ""


def in_terminal(argv, answer, folder):
    """Run a command with a pseudo terminal as its own, which answers `answer`; what it prints."""
    import pty

    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execve(argv[0], argv, environment() | {"TERM": "xterm-256color"})
    printed = b""
    answered = False
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        printed += data
        if QUERY in printed and not answered:
            answered = True
            os.write(terminal, answer)
    _, status = os.waitpid(process, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), printed, answered


@POSIX
@pytest.mark.parametrize(
    ("answer", "kind"),
    [(KITTY_ANSWER, "kitty"), (SIXEL_ANSWER, "sixel"), (PLAIN_ANSWER, "file"), (b"", "file")],
    ids=["kitty", "sixel", "neither", "no answer"],
)
def test_a_preview_in_a_terminal(answer, kind, work, model_folder):
    argv = [*LDMREF, "txt2img", "cat", "-m", str(model_folder), "--preview", "-o", "a.png"]
    code, printed, asked = in_terminal([sys.executable, *argv[1:]], answer, work)
    assert code == 0 and asked, printed
    assert b"a.png  seed" in printed and (work / "a.png").is_file()
    images = len(re.findall(rb"\x1b_Ga=T", printed)), len(re.findall(rb"\x1bP0;1q", printed))
    wanted = {"kitty": (True, False), "sixel": (False, True), "file": (False, False)}[kind]
    assert tuple(count > 0 for count in images) == wanted
    assert (b"preview: " in printed) == (kind == "file")
    if kind == "sixel":  # the last one is the image itself
        shown = decoded_sixel(re.findall(rb"\x1bP0;1q.*?\x1b\\", printed, re.DOTALL)[-1])
        final = np.asarray(side_by_side([Image.open(work / "a.png")])).astype(int)
        assert abs(shown / 100 * 255 - final).mean() < 8  # 256 colours


# -- a file ---------------------------------------------------------------------------------------


def test_a_preview_file(draw, work, monkeypatch):
    seen = []
    put = FilePreview.put

    def watched(self, image):
        put(self, image)
        seen.append((self.path, np.asarray(Image.open(self.path))))

    monkeypatch.setattr(FilePreview, "put", watched)
    monkeypatch.setattr(preview_module, "PAUSE", 0.0)
    draw("txt2img", "cat", "--seed", 1, "-o", "a.png", "--preview-file", "p.png")
    assert len(seen) == 4 and {str(path) for path, _ in seen} == {"p.png"}
    final = np.asarray(side_by_side([Image.open("a.png")]))
    assert (seen[-1][1] == final).all() and not (seen[0][1] == final).all()
    ran = draw("txt2img", "cat", "--seed", 1, "-o", "b.png", "--preview")
    named = Path(re.search(r"preview: (\S+) \(", ran.err)[1])
    assert seen[-1][0] == named and not named.parent.exists()
    assert (work / "a.png").read_bytes() == (work / "b.png").read_bytes()


@pytest.mark.parametrize("name", ["gone/p.png", "p.gif", "."])
def test_preview_files_refused(name, ldm, work, model_folder):
    ran = ldm("txt2img", "cat", "-m", model_folder, "--preview-file", name, "-o", "a.png")
    assert ran.code == 8 and not list(work.iterdir()), ran.err


def test_previews_take_at_most_a_quarter_of_the_time(monkeypatch):
    """With a clock: previews of 1 s, steps of 0.1 s."""
    clock = [0.0]

    def decode(self, most):
        clock[0] += 1.0
        return [Image.new("RGB", (8, 8))] * most

    monkeypatch.setattr(LivePreview, "images", decode)
    monkeypatch.setattr(preview_module.time, "monotonic", lambda: clock[0])
    shown = []
    preview = LivePreview()
    preview.put = shown.append
    for _ in range(1000):
        clock[0] += 0.1
        preview.show()
    assert 0.2 < len(shown) / clock[0] <= 0.26
