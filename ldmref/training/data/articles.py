"""The indefinite article of English, by the sound with which the next word begins."""

from __future__ import annotations

AN = ("hour", "x-ray", "sos", "ng ")  # against the first letter's rule
A = ("uni", "ewe", "euro", "one")


def article(noun: str) -> str:
    """Return `a` or `an`.

    >>> article("worm"), article("orange cat"), article("hourglass"), article("unicorn")
    ('a', 'an', 'an', 'a')
    """
    noun = noun.lower()
    if noun.startswith(AN):
        return "an"
    return "an" if noun[0] in "aeiou" and not noun.startswith(A) else "a"
