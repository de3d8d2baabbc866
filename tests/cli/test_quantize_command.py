"""`ldmref quantize`: the file, what is printed, and what is refused."""

from __future__ import annotations

import json

from ldmref.io.tensors.gguf import GGUFFile


def test_the_command_writes_and_says_what(ldm, work):
    ran = ldm("quantize", "emoji", "--type", "q4_k", "-o", "e.gguf", "--json")
    row = json.loads(ran.out)
    assert ran.code == 0 and row["types"]["Q4_K"]["tensors"] > 100
    assert row["bytes"] == (work / "e.gguf").stat().st_size
    ran = ldm("quantize", "emoji", "--type", "Q4_K", "-o", "e.gguf")
    assert ran.code == 8 and "E-EXISTS" in ran.err and "--overwrite" in ran.err
    arguments = ["--overwrite", "--edges", "--own-rows", "--keep", "ff"]
    ran = ldm("quantize", "emoji", "--type", "Q8_0", "-o", "e.gguf", *arguments)
    assert ran.code == 0 and "bits per weight" in ran.err
    kinds = GGUFFile(work / "e.gguf").kinds
    assert kinds["conv_out.weight"] == "F16"  # rows of 3
    assert kinds["time_embedding.linear_1.weight"] == "Q8_0"
    assert "F16" in {kind for name, kind in kinds.items() if ".ff." in name}


def test_the_command_names_the_mistake(ldm, work):
    for argv, code, word in (
        (["emoji", "--type", "Q4", "-o", "a.gguf"], 2, "E-QUANTIZED"),
        (["emoji", "--type", "Q4_K", "-o", "a.bin"], 2, "E-FORMAT"),
        (["nobody", "--type", "Q4_K", "-o", "a.gguf"], 3, "E-MODEL"),
        (["emoji", "--type", "Q4_K", "-o", "no/a.gguf"], 8, "E-FOLDER"),
    ):
        ran = ldm("quantize", *argv)
        assert ran.code == code and word in ran.err, argv
    assert not list(work.iterdir())
