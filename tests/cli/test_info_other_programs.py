"""`ldmref info` and `run --from` of images of other programs."""

from __future__ import annotations

import json

import pytest
from program_files import FILES


@pytest.mark.parametrize("name", FILES)
def test_info_prints_each_record_once(name, ldm, tmp_path):
    data, programs, said = FILES[name]
    path = tmp_path / "image"
    path.write_bytes(data)
    done = ldm("info", path)
    assert done.code == 0 and done.out.count(said) == 1, done.out
    facts = json.loads(ldm("info", path, "--json").out)
    assert facts["other"] == programs
    done = ldm("run", "--from", path)
    assert done.code == 2 and all(program in done.err for program in programs.values())
