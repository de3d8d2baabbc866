"""The indefinite article of English, by the first sound of the next word."""

from __future__ import annotations

# exceptions to the rule of the first letter
AN = ("hour", "x-ray", "sos", "ng ")
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
