"""Write the drawings of the course into docs/course/images.

    python scripts/make_drawings.py
    python scripts/make_drawings.py 07-unet 08-guidance --folder /tmp

A drawing is a function of `scripts/drawings`; its numbers come from the configuration of the
embedded model and from `ldmref.math`. `tests/course/test_drawings.py` checks that the files are
what the functions draw.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from drawings import make_drawings

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "course" / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="drawings to write (default: all)")
    parser.add_argument("--folder", type=Path, default=IMAGES)
    args = parser.parse_args()
    for name, drawing in make_drawings().items():
        if not args.names or name in args.names:
            (args.folder / f"{name}.svg").write_text(drawing.svg(name), "utf-8")


if __name__ == "__main__":
    main()
