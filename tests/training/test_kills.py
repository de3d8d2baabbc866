"""SIGKILL at random moments: a checkpoint always loads, and the next run goes on.

KILLS=50 sets the number of kills; the long form has 200.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ldmref.training.recipes.file import to_toml

pytest.importorskip("torch", reason="training runs on the torch backend")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
SCRIPT = Path(__file__).with_name("killing.py")
KILLS = int(os.environ.get("KILLS", "4"))


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "seed"), [(KILLS, 1), (max(KILLS, 200), 2)])
def test_killed_at_random_moments(recipe, tmp_path, kills, seed):
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(recipe(10, checkpoint={"seconds": 0, "steps": 1})))
    command = [sys.executable, SCRIPT, file, tmp_path / "runs", str(kills), str(seed)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LDMREF_")}
    ran = subprocess.run(
        command, capture_output=True, text=True, env=environment | {"OMP_NUM_THREADS": "1"}
    )
    assert ran.returncode == 0, ran.stderr
    counts = json.loads(ran.stdout)
    print(counts)
    assert counts["killed"] >= kills and counts["completed"] >= 1
    assert len(set(counts["steps"])) > 1  # killed at different moments
    assert counts["leftovers"] <= 3  # of the last kill only
