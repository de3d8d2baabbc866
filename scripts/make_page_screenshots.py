"""Write the screenshots of the web page: docs/images/page-*.png.

The server and the browser are those of tests/page, with the embedded model. Usage:
`python scripts/make_page_screenshots.py [FOLDER]`.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

import ldmref

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "page"), str(ROOT / "tests")]

from conftest import find_chromium  # noqa: E402
from threaded_server import serve_in_thread  # noqa: E402

DESKTOP = {"viewport": {"width": 1280, "height": 860}}
PHONE = {"viewport": {"width": 375, "height": 812}, "has_touch": True, "device_scale_factor": 2}
FACE = [(64, 34), (52, 46), (76, 46), (60, 54)]  # points of the mask, of 128 x 128 pixels


def main(folder: Path) -> None:
    """Write all screenshots into a folder."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    models = {"emoji": ldmref.load(backend="numpy")}
    with serve_in_thread(models, {"emoji": "emoji"}) as server, sync_playwright() as playwright:
        arguments = ["--no-sandbox"]
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=arguments)
        for name, (options, show) in SHOTS.items():
            context = browser.new_context(**options)
            page = context.new_page()
            show(page, server.url)
            write(folder / f"page-{name}.png", page.screenshot())
            context.close()
        browser.close()


def write(path: Path, data: bytes) -> None:
    """Write a screenshot, as small as PNG can."""
    Image.open(io.BytesIO(data)).convert("RGB").save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")


def generate(page: Any) -> None:
    """Press Generate, wait for the result, and let the messages disappear."""
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("button", name="Download", exact=True).wait_for(timeout=120_000)
    page.locator("#messages").evaluate("region => region.replaceChildren()")


def show_result(page: Any, url: str) -> None:
    """Show a generated image, and the code that generates it again."""
    page.goto(f"{url}/#p.prompt=two+blue+dogs+on+yellow&p.seed=7")
    page.get_by_label("Prompt", exact=True).wait_for()
    generate(page)


def show_several(page: Any, url: str) -> None:
    """Show several images of one request."""
    page.goto(f"{url}/#p.prompt=a+green+cat+and+a+red+apple&p.seed=2&p.count=4")
    page.get_by_label("Prompt", exact=True).wait_for()
    generate(page)


def show_painter(page: Any, url: str) -> None:
    """Show a painted mask on a generated image."""
    page.goto(f"{url}/#p.prompt=cat+face&p.seed=5")
    page.get_by_label("Prompt", exact=True).wait_for()
    generate(page)
    page.get_by_role("button", name="Paint on it").click()
    canvas = page.get_by_role("application", name="Mask")
    canvas.wait_for()
    box = canvas.bounding_box()
    places = [
        (box["x"] + x * box["width"] / 128, box["y"] + y * box["height"] / 128) for x, y in FACE
    ]
    page.mouse.move(*places[0])
    page.mouse.down()
    for x, y in places[1:]:
        page.mouse.move(x, y, steps=5)
    page.mouse.up()
    page.locator("#messages").evaluate("region => region.replaceChildren()")


def show_top(page: Any, url: str) -> None:
    """Show the result on a small screen."""
    show_result(page, url)
    page.locator(".stage").evaluate("stage => stage.scrollIntoView()")


Show = Callable[[Any, str], None]
SHOTS: dict[str, tuple[dict[str, Any], Show]] = {
    "generate": (DESKTOP, show_result),
    "dark": ({**DESKTOP, "color_scheme": "dark"}, show_several),
    "paint": (DESKTOP, show_painter),
    "phone": (PHONE, show_top),
}


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
