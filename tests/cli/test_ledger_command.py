"""`ldmref ledger` and `ldmref pitfalls`: what they print, plot and refuse."""

from __future__ import annotations

import json

import pytest

SHORT = ["--steps", "1", "--controls", "1", "-q"]


def test_one_type_layer_by_layer(ldm):
    ran = ldm("ledger", "emoji", "--type", "Q4_0", "--layers", "mid_block.*.proj_*", *SHORT)
    assert ran.code == 0 and "129 layers differ" in ran.out
    shown = [line for line in ran.out.splitlines() if line.endswith("%")]
    assert len(shown) == 2 and "mid_block.attentions.0.proj_" in shown[0]
    assert "all layers at once" in ran.out and "independent errors" in ran.out


def test_several_types_as_json_and_their_progress(ldm):
    types = ["--type", "Q8_0", "--type", "NF4"]
    ran = ldm("ledger", "emoji", *types, *SHORT[:-1], "--json")
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [row["other"] for row in rows] == ["Q8_0", "NF4"] and "NF4: 129 of 328" in ran.err
    assert rows[0]["image"] < rows[1]["image"] and rows[0]["rows"][0]["image"] is None


def test_a_quantised_file_and_its_plot(ldm, work):
    pytest.importorskip("matplotlib")
    assert ldm("quantize", "emoji", "--type", "Q8_0", "-o", "e.gguf").code == 0
    arguments = ["e.gguf", "--layers", "mid_block.*.proj_in", "--plot", "a.png", *SHORT]
    ran = ldm("ledger", "emoji", *arguments)
    assert ran.code == 0 and "against e.gguf" in ran.out
    assert (work / "a.png").read_bytes().startswith(b"\x89PNG")
    ran = ldm("ledger", "emoji", *arguments)
    assert ran.code == 8 and "E-EXISTS" in ran.err
    arguments = ["--type", "Q8_0", "--type", "Q4_K", "--plot", "b.svg", *SHORT]
    assert ldm("ledger", "emoji", *arguments).code == 0 and (work / "b.svg").is_file()


def test_the_command_names_the_mistake(ldm, work):
    for argv, code, word in (
        (["emoji"], 2, "give OTHER, a quantised model, or --type"),
        (["emoji", "emoji", "--type", "Q8_0"], 2, "one of both"),
        (["emoji", "--type", "Q7_1"], 2, "E-QUANTIZED"),
        (["emoji", "--type", "Q8_0", "--plot", "a.txt"], 2, "E-FORMAT"),
        (["emoji", "--type", "Q8_0", "--floor", "float32"], 2, "E-LEDGER"),
        (["nobody", "--type", "Q8_0"], 3, "E-MODEL"),
    ):
        ran = ldm("ledger", *argv)
        assert ran.code == code and word in ran.err and not ran.out, argv


def test_pitfalls_in_words_and_as_json(ldm):
    ran = ldm("pitfalls", "padding", "mask")
    assert ran.code == 0 and "Reasonable, but not this model" in ran.out
    rows = [json.loads(line) for line in ldm("pitfalls", "LoRA", "--json").out.splitlines()]
    assert rows and all(row["links"] for row in rows)
    assert "no pitfall is known" in ldm("pitfalls", "zzz").out
