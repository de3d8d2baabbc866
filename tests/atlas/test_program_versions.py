"""Differences name the version of each program that was read."""

import json

from click.testing import CliRunner

from ldmref.apps.cli.differences import differences
from ldmref.differences import find_differences, list_programs, program_versions


def run(*arguments):
    return CliRunner().invoke(differences, [*arguments], catch_exceptions=False).output


def test_every_program_has_a_row_and_every_row_a_program():
    assert {*program_versions()} == {*list_programs()}
    assert list(program_versions()) == sorted(program_versions(), key=str.lower)


def test_programs_are_printed_with_their_versions():
    text = run("mflux")
    assert f"mflux {program_versions()['mflux']}: " in text
    assert "mflux 0.24.0 gives Krea 2 the shift by tokens" in text
    record = json.loads(run("mflux", "--json").splitlines()[0])
    assert record["versions"] == [f"mflux {program_versions()['mflux']}"]


def test_a_program_without_a_noted_version_is_named_alone():
    (name, *_) = [name for name, version in program_versions().items() if not version]
    row = find_differences([name])[0]
    assert name in row.versions


def test_what_a_newer_version_does_names_the_program_and_its_version():
    for row in find_differences():
        if row.newer:
            assert row.newer.split()[0] in row.programs
            assert row.newer.split()[1] not in program_versions().values()
