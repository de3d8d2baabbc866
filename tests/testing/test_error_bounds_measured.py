"""What docs/evidence.md says of error bounds and images holds of benchmarks/results."""

import json
import runpy
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))  # of what the script imports


def test_the_calibration_exceeds_no_bound_and_none_is_100_times_too_large():
    made = runpy.run_path(str(SCRIPTS / "make_evidence_page.py"))
    report = json.loads((made["RESULTS"] / "error-bounds.json").read_text())
    assert report["cases"] >= 10_000 and all(row["ok"] for row in report["worst"])
    largest = {}
    for row in report["worst"]:
        key = row["operation"], row["dtype"]
        largest[key] = max(row["ratio"], largest.get(key, 0.0))
    exact = ("embedding", "upsample2x", "pad_bottom_right")
    assert all(
        ratio >= 0.01
        for (operation, dtype), ratio in largest.items()
        if operation not in exact and (operation, dtype) != ("asarray", "float64")
    )


def test_images_in_float32_differ_by_at_most_one():
    made = runpy.run_path(str(SCRIPTS / "make_evidence_page.py"))
    rows = map(json.loads, (made["RESULTS"] / "images.jsonl").read_text().splitlines())
    exact = [r for r in rows if r.get("dtype") in ("float32", "float64") and "reason" not in r]
    assert len({row["sampler"] for row in exact}) == 5
    assert all(r["largest"] <= 1 for r in exact if (r["backend"], r["speed"]) != BFLOAT16)


BFLOAT16 = ("openvino", "fastest")  # computes in bfloat16
