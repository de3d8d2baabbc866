"""`ldmref info` names every kind of single file that a flag reads, and the flag."""

from __future__ import annotations

import pytest
from safetensors.numpy import save_file
from single_files import TINY, list_files

ROWS = [
    pytest.param(name, number, id=f"{name}-{file.flag.strip('-')}-{file.what.replace(' ', '-')}")
    for name in TINY
    for number, file in enumerate(list_files(name))
    if file.flag != "--lora" or name == "z-image-tiny"  # others: test_info_adapters.py
]


@pytest.mark.parametrize(("name", "number"), ROWS)
def test_info_names_what_a_flag_reads(ldm, tmp_path, name, number):
    file = [*list_files(name)][number]
    save_file(file.tensors, tmp_path / "some.safetensors")
    ran = ldm("info", tmp_path / "some.safetensors")
    assert ran.code == 0, ran.err
    assert "no known name" not in ran.out and "Traceback" not in ran.out
    if file.flag == "-m":
        known = ran.out.startswith(f"{name}: ")
        assert known or "--model-config" in ran.out  # of a size that is not published
        assert known or name == "tiny"
    else:
        assert f"({file.flag})" in ran.out
        assert name in ran.out or file.flag == "--lora"
