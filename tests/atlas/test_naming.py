"""Lists of flow times are named by the row that makes them; made-up ones are not."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref.apps.cli.main import main
from ldmref.atlas import (
    find_flow_schedule,
    fit_shifts,
    make_flow_sigmas,
    name_numbers,
    name_sigmas,
    read_flow_schedules,
    read_numbers,
)
from ldmref.atlas.intervals import depends_on_tokens
from ldmref.errors import InputError

ROWS = read_flow_schedules()
BY_TOKENS = [row for row in ROWS if depends_on_tokens(row)]
OF_A_SIZE = [*((row, 1024) for row in ROWS), *((row, 6144) for row in BY_TOKENS)]


@pytest.mark.parametrize(("row", "tokens"), OF_A_SIZE, ids=lambda x: getattr(x, "name", str(x)))
def test_every_row_is_named_in_single_precision(row, tokens):
    steps = len(row.sigmas) or 20
    sigmas = np.float32(make_flow_sigmas(row, steps, tokens))
    found = [m for m in name_sigmas(sigmas.tolist()) if m.matches and not m.shifted_again]
    assert [m for m in found if m.row == row and m.tokens in (0, tokens)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_named_from_four_decimals_and_from_timesteps(row):
    sigmas = make_flow_sigmas(row, len(row.sigmas) or 28)[:-1]
    assert any(m.row == row and m.matches for m in name_sigmas(sigmas.round(4).tolist(), 5.5e-5))
    timesteps = (1000 * sigmas).round(2).tolist()
    assert any(m.row == row and m.matches for m in name_sigmas(timesteps, 5.5e-3))


@pytest.mark.parametrize("decimals", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("side", [512, 768, 1024, 1440])
def test_flux_is_named_at_every_number_of_decimals(decimals, side):
    """The tokens are those of the image, however few decimals are printed."""
    row = find_flow_schedule("FLUX.1", "BFL")
    tokens = (side // 16) ** 2
    for steps in (4, 8, 20, 28, 50):
        text = " ".join(f"{v:.{decimals}f}" for v in make_flow_sigmas(row, steps, tokens))
        (match,) = [m for m in named(text) if m.row == row and not m.shifted_again]
        low, high = match.agreeing
        assert match.matches and low <= tokens <= high
        if decimals > 3:
            assert match.tokens == tokens


@given(st.integers(16, 16384), st.integers(3, 60), st.integers(2, 6), st.data())
def test_every_token_row_is_named_as_it_is_printed(tokens, steps, decimals, data):
    rows = [row for row in ROWS if row.shift.startswith("tokens") or row.std != 1]
    row = data.draw(st.sampled_from(rows))
    text = " ".join(f"{v:.{decimals}f}" for v in make_flow_sigmas(row, steps, tokens))
    if text.split()[-2] == "0." + "0" * decimals:
        return  # the last flow time was rounded to the 0 at the end
    (match,) = [m for m in named(text) if m.row == row and not m.shifted_again]
    assert match.matches and match.agreeing[0] <= tokens <= match.agreeing[1]


def test_ends_of_the_agreeing_tokens_agree_and_the_next_do_not():
    row = find_flow_schedule("FLUX.1", "BFL")
    printed = make_flow_sigmas(row, 4, 4096).round(2)
    (match,) = [m for m in name_sigmas(printed, 5e-3) if m.row == row and not m.shifted_again]
    low, high = match.agreeing
    assert low < 4096 < high and match.tokens == 4096

    def agrees(tokens):
        return abs(make_flow_sigmas(row, 4, tokens) - printed).max() <= 5e-3 + 2e-6

    assert [agrees(n) for n in (low - 1, low, high, high + 1)] == [False, True, True, False]


def named(text):
    return name_sigmas(*read_numbers(text))


@pytest.mark.parametrize(
    ("mu", "decimals", "steps", "near"),
    [
        (1.16, 5, 28, ("FLUX.1", 1.15)),
        (1.16, 5, 30, ("FLUX.1", 1.15)),
        (0.7, 5, 28, ("Qwen-Image 2.1", 0.69)),
        (2.03, 5, 28, ("FLUX.2", 2.02)),
    ],
)
def test_a_fitted_mu_is_stated(mu, decimals, steps, near):
    """ComfyUI's rule with another mu: no row makes it, and the mu that fits is said."""
    row = replace(find_flow_schedule("FLUX.1", "ComfyUI"), mu=mu)
    text = " ".join(f"{v:.{decimals}f}" for v in make_flow_sigmas(row, steps))
    answer = name_numbers(text)
    assert not answer.same
    fits = fit_shifts(*read_numbers(text))
    assert fits[0].row.spacing == row.spacing and fits[0].mu == mu
    assert fits[0].low <= mu <= fits[0].high
    assert answer.fitted[0] == str(fits[0]) and f"mu = {mu} " in answer.fitted[0]
    assert near in fits[0].others


def test_a_fitted_shift_is_stated():
    s = np.linspace(1, 1 / 9, 9)
    answer = name_numbers(" ".join(f"{v:.6f}" for v in 1.75 * s / (1 + 0.75 * s)))
    assert not answer.same and "k = 1.75 " in answer.fitted[0]


def test_a_shift_that_a_row_has_is_not_fitted():
    text = " ".join(f"{v:.4f}" for v in make_flow_sigmas(find_flow_schedule("Wan"), 20))
    answer = name_numbers(text)
    assert answer.same and answer.fitted == ()


@pytest.mark.parametrize(
    "values", [(14.6146, 5.2, 1.1, 0.0292, 0.0), (80.0, 9.7, 0.002), (1.2, 0.5), (0.5, -0.1)]
)
def test_sigmas_of_diffusion_are_no_flow_times(values):
    with pytest.raises(InputError, match="no flow times") as caught:
        name_sigmas(values)
    assert caught.value.hint


def test_no_row_far_away_is_offered():
    answer = name_numbers("1.0 0.1 0.05 0.01")
    assert all(float(text.split("up to ")[1].split(" ")[0]) <= 0.2 for text in answer.nearest)


@given(st.integers(100, 12000), st.integers(4, 60))
def test_tokens_are_recovered(tokens, steps):
    row = find_flow_schedule("FLUX.1", "BFL")
    (match,) = [
        m
        for m in name_sigmas(make_flow_sigmas(row, steps, tokens))
        if m.row == row and not m.shifted_again
    ]
    assert match.matches and match.tokens == tokens


def test_a_list_shifted_a_second_time_is_recognised():
    """As diffusers does with explicit timesteps (diffusers#14461)."""
    row = find_flow_schedule("HunyuanImage 2.1")
    sigmas = make_flow_sigmas(row, 13)[:-1]
    best = name_sigmas(5 * sigmas / (1 + 4 * sigmas))[0]
    assert best.matches and best.shifted_again and best.row == row
    assert "shifted a second time" in str(best)


@given(st.lists(st.floats(0.01, 0.99), min_size=6, max_size=30, unique=True))
def test_made_up_lists_are_unknown(values):
    values = sorted(values, reverse=True)
    if values[0] < 0.9 and min(-np.diff(values)) > 1e-3:
        assert not name_sigmas([1.0, *values], 1e-4)[0].matches


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], "at least two"),
        ([1.0, float("nan")], "at least two finite"),
        ([0.1, 0.5, 1.0], "must fall"),
        ([1.5, 0.5], r"in \[0, 1\]"),
        ([1200.0, 500.0], r"in \[0, 1\]"),
    ],
)
def test_what_is_no_schedule_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        name_sigmas(values)


@pytest.mark.parametrize(
    ("text", "values", "precision"),
    [
        ("1.0 0.95", [1.0, 0.95], [0.05, 0.005]),
        ("1.00 0.95", [1.0, 0.95], [0.005, 0.005]),
        ("[1.0, 0.9546,\n 0.9000]", [1.0, 0.9546, 0.9], [5e-4, 5e-5, 5e-5]),
        ("tensor([1.0000e+00, 5.0000e-01], dtype=torch.float64)", [1.0, 0.5], [5e-5, 5e-6]),
        ("array([1. , 0.5], dtype=float32)", [1.0, 0.5], [0.5, 0.05]),
        ("999, 833", [999.0, 833.0], [1.0, 1.0]),
        ("0.998 0.0123 0.00123", [0.998, 0.0123, 0.00123], [5e-4, 5e-5, 5e-6]),
        ("0.9884 0.0123", [0.9884, 0.0123], [5e-5, 5e-5]),
    ],
)
def test_numbers_are_read_as_programs_print_them(text, values, precision):
    got, units = read_numbers(text)
    assert got == values and units == pytest.approx(precision)


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def ask(monkeypatch, capsys):
    """Run `ldmref schedule` with this standard input; return code, output, errors."""
    import io

    def run(*argv, text=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        code = main(["schedule", *argv])
        ran = capsys.readouterr()
        return code, ran.out, ran.err

    return run


def test_command_prints_a_schedule(ask):
    code, out, _ = ask("FLUX.1", "--size", "1024x1024", "--steps", "28", "--program", "comfyui")
    assert code == 0 and "constant mu 1.15" in out and "28 steps, 1024x1024, 4096 tokens" in out
    assert out.splitlines()[-2].split() == ["27", "0.104954"]


def test_command_prints_two_programs_and_their_difference(ask):
    code, out, _ = ask(
        "flux1", "--size=512x512", "--steps=4", "--program=diffusers", "--program=comfyui"
    )
    last = out.splitlines()[-2].split()
    assert code == 0 and float(last[2]) - float(last[1]) == pytest.approx(float(last[3]), abs=2e-6)


def test_command_names_numbers(ask):
    code, out, _ = ask(text=" ".join(f"{v:.5f}" for v in flux_of_comfyui()))
    first, *rest = out.splitlines()
    assert code == 0 and first == "FLUX.1 and Qwen-Image, constant mu 1.15: ComfyUI"
    assert "FLUX.1, mu by tokens, 4100 tokens" in rest[-1]


def flux_of_comfyui():
    return make_flow_sigmas(find_flow_schedule("FLUX.1", "ComfyUI"), 28)[:-1]


def test_command_says_unknown(ask):
    code, out, _ = ask(text="1.0 0.8 0.6 0.31 0.1")
    assert code == 0 and out.startswith("unknown\n  nearest: ")


def test_command_prints_json(ask):
    code, out, _ = ask("Z-Image", "--json")
    made = json.loads(out)
    assert code == 0 and made["family"] == "Z-Image" and len(made["made"]) == 9
    code, out, _ = ask("--json", text="1 .9 .75 .5")
    assert code == 0 and json.loads(out.splitlines()[0])["matches"]


def test_command_lists_and_draws(ask, tmp_path):
    code, out, _ = ask("--list")
    assert code == 0 and len(out.splitlines()) == len(ROWS)
    pytest.importorskip("matplotlib")
    file = tmp_path / "sigmas.png"
    assert ask("SD3", "--plot", str(file))[0] == 0 and file.stat().st_size > 1000
    before = file.read_bytes()
    code, out, err = ask("FLUX.1", "--plot", str(file))
    assert code == 8 and "exists" in err and not out and file.read_bytes() == before
    assert ask("FLUX.1", "--plot", str(file), "--overwrite")[0] == 0
    assert file.read_bytes() != before
    code, out, err = ask("SD3", "--plot", str(tmp_path / "sigmas.txt"))
    assert code == 2 and "E-FORMAT" in err and not out


@pytest.mark.parametrize(
    ("argv", "text", "message"),
    [
        (["FLUX.1", "--size", "big"], "", "no size in pixels"),
        (["FLUX.9"], "", "no family"),
        ([], "nothing here", "no numbers"),
    ],
)
def test_command_refuses(ask, argv, text, message):
    code, _, err = ask(*argv, text=text)
    assert code != 0 and message in err
