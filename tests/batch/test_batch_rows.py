"""Rows: JSON lines in, rows and failures out."""

from __future__ import annotations

import io
import json

import pytest

from ldmref.batch import read_rows
from ldmref.batch.rows import MAX_LINE
from ldmref.errors import InputError


def read_text(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_rows(path)


def test_a_row_has_a_mode_a_name_and_parameters(tmp_path):
    first, second = read_text(
        tmp_path, '{"prompt": "a"}\n{"mode": "img2img", "custom_id": "x", "steps": 3}'
    )
    assert (first.line, first.mode, first.custom_id, first.values) == (
        1,
        "txt2img",
        None,
        {"prompt": "a"},
    )
    assert (second.line, second.mode, second.custom_id) == (2, "img2img", "x")
    assert second.values == {"steps": 3}


def test_blank_lines_count_but_are_no_rows(tmp_path):
    rows = read_text(tmp_path, '\ufeff{"prompt": "a"}\r\n\r\n   \n{"prompt": "é"}\r\n')
    assert [(row.line, row.values["prompt"]) for row in rows] == [(1, "a"), (4, "é")]


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ("nonsense", "E-ROW", "is not JSON"),
        ("[1]", "E-ROW", "must be a JSON object"),
        ('{"prompt": "a", "prompt": "b"}', "E-ROW", "twice"),
        ('{"cfg_scale": NaN}', "E-ROW", "NaN"),
        ('{"a": ' + "[" * 2000 + "]" * 2000 + "}", "E-ROW", "deeper"),
        ('{"prompt": "\\ud800"}', "E-ROW", "not JSON"),
        ('{"custom_id": 3}', "E-CUSTOM-ID", "must be a text"),
        ('{"custom_id": ""}', "E-CUSTOM-ID", "must be a text"),
        ('{"custom_id": "' + "x" * 300 + '"}', "E-CUSTOM-ID", "1 to 256"),
        (b'{"prompt": "\xff"}', "E-ROW", "not JSON"),
        (b'{"prompt": "' + b"x" * MAX_LINE + b'"}', "E-ROW", "longer than"),
    ],
)
def test_a_wrong_line_is_a_failure_and_the_next_one_is_read(tmp_path, line, code, text):
    line = line if isinstance(line, bytes) else line.encode()
    failure, row = read_text(tmp_path, line + b'\n{"prompt": "a"}\n')
    assert (failure.line, failure.code) == (1, code) and text in failure.message
    assert (row.line, row.values) == (2, {"prompt": "a"})


def test_a_custom_id_belongs_to_one_row(tmp_path):
    rows = read_text(tmp_path, '{"custom_id": "x"}\n{"custom_id": "y"}\n{"custom_id": "x"}\n')
    assert rows[2].code == "E-CUSTOM-ID" and "line 1" in rows[2].message
    assert rows[2].custom_id == "x"


def test_rows_may_be_mappings_or_standard_input(monkeypatch):
    assert [row.line for row in read_rows([{"prompt": "a"}, {"prompt": "b"}])] == [1, 2]
    assert read_rows([3])[0].code == "E-ROW"
    stdin = io.TextIOWrapper(io.BytesIO(json.dumps({"prompt": "a"}).encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert read_rows("-")[0].values == {"prompt": "a"}


def test_a_file_that_is_missing_or_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "no.jsonl", tmp_path):
        with pytest.raises(InputError) as caught:
            read_rows(path)
        assert caught.value.code == "E-ROWS-FILE"
