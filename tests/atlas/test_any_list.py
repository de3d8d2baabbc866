"""Any text on the standard input of `ldmref schedule` is answered or refused in one line."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldmref.atlas import find_flow_schedule, make_flow_sigmas, name_numbers
from ldmref.errors import InputError

COUNTS = (1, 2, 3, 100, 199, 200, 2000, 2001, 10**5)  # 200 quantiles of a beta law are 199 numbers
NUMBERS = st.one_of(
    st.floats(0, 1),
    st.floats(),
    st.sampled_from([0.0, -0.0, 0.5, 1.0, 1.001, 999.0, 1000.0, 1e99, math.nan, math.inf]),
    st.integers(-(10**6), 10**6),
)


def answer(text):
    """Return what is known of a text, or None where it is refused in one line."""
    try:
        return name_numbers(text)
    except InputError as error:
        assert error.code == "E-SIGMAS" and "\n" not in str(error)
        return None


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("number", ["0.5", "1", "0", "1000"])
def test_equal_numbers_are_answered_or_refused(number, count):
    answered = answer(f"{number} " * count)
    assert (answered is None) == (count in (1, 2001, 10**5) or number == "0")


@given(st.lists(NUMBERS, max_size=6), st.sampled_from(["", "fall", "rise"]), st.integers(1, 80))
@settings(max_examples=40, deadline=None)
def test_any_numbers_are_answered_or_refused(numbers, order, repeated):
    if order and not any(math.isnan(number) for number in numbers):
        numbers = sorted(numbers, reverse=order == "fall")
    answer("\n".join(str(number) for number in numbers for _ in range(repeated)))


@given(st.text(alphabet="0123456789.eE+-, \n[]naif", max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_text_is_answered_or_refused(text):
    answer(text)


@pytest.mark.parametrize("word", ["nan", "-inf", "Infinity", "NaN"])
def test_a_number_that_is_not_finite_is_not_left_out(word):
    with pytest.raises(InputError, match=f"'{word}' is no flow time") as caught:
        name_numbers(f"1.0 0.9 {word} 0.5")
    assert caught.value.code == "E-SIGMAS"
    assert name_numbers("1.0 0.9 info='nan_to_num' 0.75 0.5, dtype=inf").same


def test_a_beta_law_of_more_steps_than_numbers_is_named():
    """Two of its 200 quantiles round to one."""
    made = make_flow_sigmas(find_flow_schedule("SD3", "ComfyUI beta"), 200)
    assert len(made) == 200
    answered = name_numbers(" ".join(f"{time:.6f}" for time in made))
    assert any("ComfyUI beta" in text for text in answered.same)
