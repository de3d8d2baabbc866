"""What `ldmref serve` refuses is refused before it says that it serves."""

from __future__ import annotations

import pytest

REFUSED = {  # flag -> (what is in its file or folder, code, exit code)
    "a long wildcard": ("--wildcards", {"colour.txt": "x" * 10_001}, "E-WILDCARD", 3),
    "a wildcard that is no text": ("--wildcards", {"colour.txt": b"\xff\xfe\xff"}, "E-WILDCARD", 3),
    "no wildcards": ("--wildcards", None, "E-WILDCARD", 3),
    "no styles": ("--styles", None, "E-STYLES", 3),
    "styles that are no table": ("--styles", b"\xff\xfe\xff", "E-STYLES", 3),
    "no folder of LoRAs": ("--lora-folder", None, "E-FOLDER", 3),
    "no folder of embeddings": ("--embedding-folder", None, "E-FOLDER", 3),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_address_is_not_announced(name, ldm, model_folder, tmp_path):
    flag, content, code, exit_code = REFUSED[name]
    path = tmp_path / "given"
    if isinstance(content, dict):
        path.mkdir()
        for file, text in content.items():
            (path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    elif content is not None:
        path.write_bytes(content)
    done = ldm("serve", "-m", model_folder, "--port", "0", "--backend", "numpy", flag, path)
    assert done.code == exit_code and f"error[{code}" in done.err, done.err
    assert "serving" not in done.err and done.out == ""
    assert sum(line.startswith("ldmref: error") for line in done.err.splitlines()) == 1
