"""The animation of README.md is what `scripts/make_readme_animation.py` promises."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
SCRIPT = (ROOT / "scripts" / "make_readme_animation.py").read_text("utf-8")


def test_it_takes_ten_seconds_and_less_than_three_megabytes():
    path = ROOT / "docs" / "images" / "explorer.webp"
    assert "(docs/images/explorer.webp)" in (ROOT / "README.md").read_text("utf-8")
    assert re.search(r"^MOST_BYTES = 3_000_000$", SCRIPT, re.MULTILINE)
    assert path.stat().st_size < 3_000_000
    with Image.open(path) as film:
        assert film.n_frames > 50 and film.format == "WEBP"
        milliseconds = 0
        for number in range(film.n_frames):
            film.seek(number)
            film.load()
            milliseconds += film.info["duration"]
    assert abs(milliseconds - 10_000) < 200
