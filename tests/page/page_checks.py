"""What several tests of the page look at: phones, findings of axe-core, and the explorer's step."""

from __future__ import annotations

import pytest

PHONE = {"viewport": {"width": 375, "height": 667}, "has_touch": True}
TALL_PHONE = {"viewport": {"width": 375, "height": 800}, "has_touch": True}
READY = "#view=explore"  # the explorer with the run in the package


def find_serious(page):
    """Return the rules of axe-core that the page breaks seriously."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    return [
        (rule["id"], [node["html"][:120] for node in rule["nodes"]])
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


def step_of(page):
    """Return the step that the explorer shows."""
    return int(page.locator(".explorer").get_attribute("data-step"))
