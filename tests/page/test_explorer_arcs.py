"""The arcs of a flow map in the explorer: the numbers, the drawing, the address."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from page_checks import PHONE, find_serious

from ldmref import explore

LINK = "#view=explore&p.prompt=a+red+cat&p.seed=3&p.steps=6&step=2"


@pytest.fixture
def open_page(serve_page, new_context, tiny, tiny_map):
    """`open_page(hash)` opens the explorer of a server of a model and its map."""

    def make(link, models=None, **options):
        page = new_context(**options).new_page()
        page.server = serve_page(models or {"tiny": tiny, "map": tiny_map})
        page.goto(f"{page.server.url}/{link}")
        page.locator(".ex-strips canvas").first.wait_for()
        return page

    return make


def scaled(record):
    """The states at the scale of variance one, in float64, and their angles."""
    sigmas = record.sigmas.astype(np.float64)
    shape = (-1, *[1] * (record.x.ndim - 1))
    return record.x / np.sqrt(1 + sigmas**2).reshape(shape), np.arctan(sigmas)


def rms(x):
    return float(np.sqrt(np.mean(x.astype(np.float64) ** 2)))


def measure(run, arcs, k):
    """Return the angle between both velocities at step k of a run, and the distance of the arc."""
    (z, phi), (ends, angles) = scaled(run), scaled(arcs)
    i = int(np.flatnonzero(angles >= phi[k] - 1e-9)[-1])
    a, b = angles[i], angles[i + 1]
    mean = (ends[i] * math.cos(a - b) - ends[i + 1]) / math.sin(a - b)
    # the arc by its rotation, and not by the two ends
    on_arc = ends[i] * math.cos(a - phi[k]) - mean * math.sin(a - phi[k])
    x0 = z[k] * math.cos(phi[k]) - math.sin(phi[k]) * (velocity := velocity_of(run, z, phi, k))
    assert np.allclose(x0, run.x0[k], atol=1e-4)
    cosine = np.vdot(velocity, mean) / (np.linalg.norm(velocity) * np.linalg.norm(mean))
    return math.degrees(math.acos(cosine)), rms(on_arc - z[k])


def velocity_of(run, z, phi, k):
    """v = cos(phi) eps - sin(phi) x0."""
    eps = (z[k] - math.cos(phi[k]) * run.x0[k]) / math.sin(phi[k])
    return math.cos(phi[k]) * eps - math.sin(phi[k]) * run.x0[k]


@pytest.mark.parametrize("steps", [1, 2])
def test_the_numbers_are_those_of_the_definition(open_page, tiny, tiny_map, steps):
    page = open_page(f"{LINK}&arcs={steps}")
    told = page.locator(".ex-arcs output")
    page.locator(".ex-arcs .ex-arrow").first.wait_for()
    run = explore.record_run(tiny, prompt="a red cat", seed=3, steps=6)
    arcs = explore.record_run(tiny_map, prompt="a red cat", seed=3, steps=steps)
    angle, gap = measure(run, arcs, 2)
    found = re.findall(r"\d[\d.]*(?=°| from the state)", told.inner_text())
    assert float(found[0]) == pytest.approx(angle, abs=0.6)  # whole degrees
    assert float(found[1]) == pytest.approx(gap, rel=6e-3)  # three digits
    assert page.locator(".ex-arcs svg path:not(.ex-arrow)").count() == 1 + steps
    page.locator(".ex-scrubber input").first.press("End")
    end = rms(scaled(run)[0][-1] - scaled(arcs)[0][-1])
    assert float(re.findall(r"arrives ([\d.]+) from", told.inner_text())[0]) == pytest.approx(
        end, rel=6e-3
    )


def test_a_choice_is_in_the_address_and_can_be_taken_back(open_page):
    page = open_page(LINK)
    panel = page.locator(".ex-arcs")
    assert panel.locator(".chart-box").is_hidden()
    two = panel.get_by_role("button", name="2 steps")
    two.click()
    panel.locator(".ex-arrow").first.wait_for()
    page.wait_for_function("() => location.hash.includes('arcs=2')")
    assert two.get_attribute("aria-pressed") == "true"
    assert find_serious(page) == []
    two.click()
    panel.locator(".chart-box").wait_for(state="hidden")
    page.wait_for_function("() => !location.hash.includes('arcs')")


def test_no_map_no_arcs(open_page, tiny):
    page = open_page(LINK, {"tiny": tiny})
    assert page.locator(".ex-arcs").is_hidden()


def test_a_wrong_number_of_arcs_is_said(open_page):
    page = open_page(f"{LINK}&arcs=3")
    page.get_by_text("the map has no arcs of “3” steps").wait_for()


def test_a_phone_holds_the_drawing(open_page):
    page = open_page(f"{LINK}&arcs=4", **PHONE)
    page.locator(".ex-arcs .ex-arrow").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
