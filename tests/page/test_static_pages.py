"""The static pages without the model: widgets of the course, a copy of the site, an export."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from page_checks import find_serious
from small_models import save_map
from static_site import CORE, serve_folder

import ldmref
from ldmref.errors import InputError, OutputError, UsageError
from ldmref.models.params import tree_map

PAGES = CORE.parent.parent
PHONE = {"viewport": {"width": 375, "height": 812}, "has_touch": True}
READINGS = {
    "joint": r"1\.\d % of the pairs",
    "kl": r"= 0\.500 \+ 0\.184 = 0\.684 nats",
    "noise": r"ᾱ = 0\.847",
    "schedules": r"linear 4\.04e-5, scaled linear 0\.00466, cosine 2\.43e-9",
    "posterior": r"E\[x₀ \| x\] = 0\.0899",
    "guidance": r"w = 1\.0 \(the conditional model\)",
    "samplers": r"6 evaluations",
    "interpolation": r"angle between the two noises: 8\d",
    "model": "this copy of the page was built without the model",
    "explorer": "Open the explorer",
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Yield the address of the pages as the site has them without a built model."""
    from browser import copy_pages

    folder = tmp_path_factory.mktemp("static") / "_static" / "browser"
    copy_pages(folder)
    with serve_folder(folder) as address:
        yield address


@pytest.fixture
def open_widgets(pages, new_context, watch):
    """`open_widgets(**options)` opens the page of all widgets."""
    watch.allow(r"status of 404.*manifest\.json")

    def open_page(**options):
        page = new_context(**options).new_page()
        page.goto(f"{pages}/knobs.html")
        page.get_by_text("evaluations of the denoiser").wait_for()
        page.get_by_text("built without the model").wait_for()
        return page

    return open_page


def widget(page, name):
    return page.locator(f'[data-knob="{name}"]')


def test_every_widget_says_its_numbers(open_widgets):
    page = open_widgets()
    names = page.locator("[data-knob]").evaluate_all("all => all.map((one) => one.dataset.knob)")
    modules = re.findall(r"^  (\w+): \"\./", (PAGES / "js/knobs/main.js").read_text("utf-8"), re.M)
    assert sorted(names) == sorted(modules) == sorted(READINGS)
    for name, pattern in READINGS.items():
        assert re.search(pattern, widget(page, name).inner_text()), name


def test_sliders_change_what_is_shown(open_widgets):
    page = open_widgets()
    noise = widget(page, "noise")
    noise.get_by_label("timestep t").fill("0")
    noise.get_by_text("ᾱ = 1,").wait_for()
    guidance = widget(page, "guidance")
    before = guidance.locator(".knob-point").first.get_attribute("cx")
    guidance.get_by_label("guidance weight w").press("ArrowRight")
    guidance.get_by_text("w = 1.1: samples").wait_for()
    assert guidance.locator(".knob-point").first.get_attribute("cx") != before
    samplers = widget(page, "samplers")
    errors = {}
    for sampler, steps in (("euler", "39"), ("dpmpp_2m", "40")):
        samplers.get_by_label("sampler", exact=True).select_option(sampler)
        samplers.get_by_label("steps", exact=True).fill(steps)
        line = samplers.get_by_text(re.compile(f"^{steps} evaluations"))
        line.wait_for()
        errors[sampler] = float(re.findall(r"are ([\d.e-]+) from", line.inner_text())[0])
    assert errors["dpmpp_2m"] < errors["euler"] / 2


@pytest.mark.parametrize(
    "options", [{}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"]
)
def test_widgets_have_no_serious_finding_of_axe(open_widgets, options):
    page = open_widgets(**options)
    assert find_serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == options.get(
        "viewport", {"width": 1280}
    ).get("width")


def test_an_unknown_widget_is_explained(open_widgets):
    page = open_widgets()
    page.evaluate("""() => {
      const place = document.querySelector("[data-knob=kl]");
      place.dataset.knob = "constructor";
      return import("/js/knobs/main.js?again");
    }""")
    page.get_by_text('there is no widget "constructor", only explorer, guidance,').wait_for()


def test_the_explorer_says_that_the_model_is_missing(pages, new_context, watch):
    watch.allow(r"status of 404.*manifest\.json")
    page = new_context().new_page()
    page.goto(f"{pages}/index.html")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "this copy of the page was built without the model" in alert.inner_text()


def test_files_are_short_and_name_no_other_host():
    for path in PAGES.rglob("*"):
        if path.suffix not in (".js", ".html", ".css"):
            continue
        text = path.read_text("utf-8")
        assert text.count("\n") < 350, path
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in text.replace("'wasm-unsafe-eval'", ""), (path, word)
        assert not re.search(r"https?://", text), path


# -- the extension of Sphinx and the export -----------------------------------------------------


CONFIGURATION = """
import sys
sys.path.insert(0, {extensions!r})
extensions = ["myst_parser", "browser"]
html_theme = "furo"
"""
PAGE = """\
# A chapter

<div class="ldmref-knob" data-knob="kl"></div>

Text.

<div class="ldmref-knob" data-knob="explorer" data-prompt="a cat"></div>
"""


def test_widgets_on_a_page_of_sphinx(tmp_path, new_context, watch):
    """In the theme of the site, light and dark; the explorer is one link away."""
    for library in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(library)
    source = tmp_path / "source"
    source.mkdir()
    text = CONFIGURATION.format(extensions=str(PAGES.parent / "_ext"))
    (source / "conf.py").write_text(text, "utf-8")
    (source / "index.md").write_text(PAGE, "utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", str(source), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    watch.allow(r"status of 404.*(manifest\.json|favicon\.ico)")
    with serve_folder(tmp_path / "site") as address:
        colours = set()
        for scheme in ("light", "dark"):
            page = new_context(color_scheme=scheme).new_page()
            page.goto(address)
            page.get_by_text("0.684 nats").wait_for()
            style = "element => getComputedStyle(element).color"
            colours.add(widget(page, "kl").locator(".knob-title").evaluate(style))
            assert find_serious(page) == []
        assert len(colours) == 2
        page.get_by_role("link", name="Open the explorer").click()
        page.get_by_text("built without the model").wait_for()
        assert "p.prompt=a+cat" in page.url
        page.get_by_role("link", name="Documentation").click()
        page.get_by_role("heading", name="A chapter").wait_for()
        page.close()


def test_the_site_gets_pages_and_the_model_if_there_is_one(tmp_path):
    import browser

    pytest.importorskip("sphinx")

    def build(built):
        config = SimpleNamespace(ldmref_browser_folder=str(built))
        out = tmp_path / f"site of {built.name}"
        app = SimpleNamespace(
            builder=SimpleNamespace(format="html"), outdir=out, confdir=tmp_path, config=config
        )
        browser.add_to_site(app, None)
        return out / "_static" / "browser"

    built = tmp_path / "built"
    for name in browser.BUILT:
        (built / name).mkdir(parents=True)
        (built / name / "file").write_text(name)
    site = build(built)
    assert (site / "index.html").is_file()
    assert (site / "shared/js/charts.js").is_file()
    assert (site / "model/file").read_text() == "model"
    site = build(tmp_path / "nothing")
    assert (site / "js/knobs/main.js").is_file()
    assert (site / "model/manifest.json").read_text() == "null\n"
    assert not (site / "runtime").exists()


def test_the_shared_files_suffice():
    """Every import of the pages is there."""
    import browser

    shared = {f"shared/{name}" for name in browser.SHARED}
    own = {path.relative_to(PAGES).as_posix() for path in PAGES.rglob("*") if path.is_file()}
    for path in PAGES.rglob("*.js"):
        for name in re.findall(r'from "(\.[^"]+)"', path.read_text("utf-8")):
            target = (path.parent / name).resolve().relative_to(PAGES.resolve()).as_posix()
            assert target in own | shared, (path, name)


def test_the_export_of_the_model(tmp_path):
    """Weights in float16, digests, numbers of the schema; without the runtime."""
    pytest.importorskip("onnx")
    import onnx
    from make_browser_model import describe, write_model

    model = ldmref.load(backend="numpy")
    runtime = {"script": {"bytes": 1}, "wasm": {"bytes": 2}}
    manifest = write_model(model, tmp_path, runtime)
    assert json.loads((tmp_path / "manifest.json").read_text("utf-8"))["latents"] == {
        "channels": 16,
        "width": 16,
        "height": 16,
        "scaling_factor": model.config.vae.scaling_factor,
    }
    assert manifest["defaults"] == {"steps": 20, "cfg_scale": 2.5, "sampler": "dpmpp_2m"}
    parts = [manifest["tokenizer"], *manifest["networks"].values()]
    total = sum(part["bytes"] for part in parts)
    assert 25e6 < total < 30e6
    assert manifest["download_bytes"] == total + 3
    for part in parts:
        found = describe(tmp_path / part["file"])
        assert {name: part[name] for name in found} == found
    graph = onnx.load(tmp_path / "unet.onnx").graph
    kinds = {x.data_type for x in graph.initializer if np.prod(x.dims) > 1000}
    assert kinds == {onnx.TensorProto.FLOAT16}


def test_other_models_are_refused():
    from make_browser_model import require_supported

    with pytest.raises(UsageError, match="'tiny' does not have trailing timesteps down to 0"):
        require_supported(ldmref.random_model("tiny", backend="numpy"))


def test_what_is_no_map_of_the_model_is_refused(tmp_path):
    from make_browser_model import require_map

    model = ldmref.load(backend="numpy")
    save_map(tmp_path / "map", model)
    flow_map = ldmref.load(tmp_path / "map", backend="numpy")
    require_map(flow_map, model)
    with pytest.raises(UsageError, match="'emoji-128' is no flow map of 'emoji-128'"):
        require_map(model, model)
    vae = tree_map(lambda x: x * 2, flow_map.params["vae"])
    with pytest.raises(UsageError, match="'emoji-128-flow-map' is no flow map"):
        require_map(flow_map.with_params({"vae": vae}, flow_map.backend), model)


def test_a_folder_of_something_else_is_kept(tmp_path, capsys):
    from make_browser_model import main, require_target

    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not an export of this script"):
        require_target(tmp_path)
    assert main(["-o", str(tmp_path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: ")
    assert lines[1] == "hint: name an empty or a new folder"
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_another_package_is_refused(tmp_path):
    from make_browser_model import require_integrity

    package = tmp_path / "onnxruntime-web-1.30.0.tgz"
    with pytest.raises(InputError, match="cannot be read"):
        require_integrity(package)
    package.write_bytes(b"something else")
    with pytest.raises(InputError, match="its SHA-512 is another"):
        require_integrity(package)
