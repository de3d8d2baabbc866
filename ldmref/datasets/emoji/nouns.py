"""The things in scenes: emoji with a short English noun, and its plural."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from ldmref.datasets.emoji.font import Emoji, emoji_list

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


# fmt: off
GROUPS = frozenset((
    "animal-mammal", "animal-bird", "animal-amphibian", "animal-reptile", "animal-marine",
    "animal-bug", "plant-flower", "plant-other", "food-fruit", "food-vegetable", "food-prepared",
    "food-asian", "food-marine", "food-sweet", "drink", "dishware", "face-smiling",
    "face-affection", "face-tongue", "face-hand", "face-neutral-skeptical", "face-sleepy",
    "face-unwell", "face-hat", "face-glasses", "face-concerned", "face-negative", "face-costume",
    "cat-face", "place-geographic", "place-building", "place-religious", "place-other",
    "transport-ground", "transport-water", "transport-air", "hotel", "time", "event",
    "award-medal", "sport", "game", "body-parts", "clothing", "sound", "music",
    "musical-instrument", "phone", "computer", "mail", "writing", "office", "lock", "tool",
    "science", "medical", "household", "other-object", "money", "book-paper", "sky & weather",
    "arts & crafts", "light & video",
))
ALIASES = {  # name of an emoji -> its everyday name
    "red apple": "apple", "red heart": "heart", "red circle": "circle", "red square": "square",
    "red triangle pointed up": "triangle", "closed book": "book", "automobile": "car",
    "deciduous tree": "tree", "kitchen knife": "knife", "wrapped gift": "gift",
    "man’s shoe": "shoe", "ear of corn": "corn", "locked": "lock", "mobile phone": "phone",
    "desktop computer": "computer", "soft ice cream": "ice cream cone",
}
PEOPLE = frozenset((  # emoji of people that have a short name
    "baby", "child", "boy", "girl", "man", "woman", "old man", "old woman", "prince", "princess",
    "astronaut", "firefighter", "farmer", "cook", "ninja", "superhero", "mage", "fairy",
    "vampire", "mermaid", "elf", "genie", "zombie", "troll", "Santa Claus", "baby angel",
))
NUMBERS = "one two three four five six seven eight nine ten eleven twelve thirty"
NO_NOUN_WORDS = frozenset((  # sizes, numbers, colours, and views of other emoji
    "small big large red orange yellow green blue purple pink brown black white grey oncoming "
    f"incoming low {NUMBERS}"
).split())
LEFT_OUT = frozenset((
    "face exhaling", "face vomiting", "exploding head", "star-struck", "biting lip",
    "flexed biceps", "mechanical arm", "mechanical leg", "guide dog", "service dog", "pig nose",
    "mount fuji", "camping", "desert", "desert island", "national park", "building construction",
    "houses", "love hotel", "Japanese castle", "wedding", "Tokyo tower", "foggy", "cityscape",
    "sunrise", "sunset", "hot springs", "light rail", "station", "mountain railway", "tram car",
    "motorway", "railway track", "construction", "airplane departure", "airplane arrival", "seat",
    "suspension railway", "mountain cableway", "aerial tramway", "hourglass done", "new moon",
    "milky way", "fog", "wind face", "high voltage", "water wave", "tanabata tree",
    "pine decoration", "Japanese dolls", "carp streamer", "reminder ribbon", "tennis", "bowling",
    "cricket game", "field hockey", "ice hockey", "lacrosse", "ping pong", "badminton",
    "spade suit", "heart suit", "diamond suit", "club suit", "performing arts", "muted speaker",
    "musical score", "musical notes", "level slider", "control knobs", "film frames", "books",
    "e-mail", "card index", "chart increasing", "chart decreasing", "unlocked", "chains", "dna",
    "link", "cooking", "pouring liquid", "mate", "classical building", "low battery",
    "linked paperclips", "bookmark tabs", "ice cream", "mouth", "round pushpin",
    "kaaba", "shaking face", "fireworks", "sparkler", "telephone receiver", "open book",
))
PLURAL_NAMES = frozenset((  # used without an article, and already plural
    "eyes", "lungs", "paw prints", "grapes", "cherries", "blueberries", "peanuts", "beans",
    "pancakes", "french fries", "clinking glasses", "chopsticks", "sparkles",
    "admission tickets", "skis", "nesting dolls", "glasses", "sunglasses", "goggles", "jeans",
    "gloves", "socks", "briefs", "shorts", "shopping bags", "ballet shoes", "prayer beads",
    "maracas", "scissors", "crossed swords", "bubbles",
))
MASS_NAMES = frozenset((  # uncountable
    "bread", "baguette bread", "flatbread", "stuffed flatbread", "broccoli", "garlic", "bacon",
    "fondue", "popcorn", "butter", "salt", "canned food", "cooked rice", "curry rice",
    "spaghetti", "oden", "sushi", "fried shrimp", "dango", "shaved ice", "custard", "sake",
    "bubble tea", "ice", "wood", "coral", "falafel", "fire", "yarn", "thread", "soap", "corn",
    "ginger root", "luggage", "santa claus",
))
IRREGULAR = {
    "mouse": "mice", "goose": "geese", "tooth": "teeth", "foot": "feet", "ox": "oxen",
    "deer": "deer", "moose": "moose", "bison": "bison", "shrimp": "shrimp", "squid": "squid",
    "wolf": "wolves", "leaf": "leaves", "knife": "knives", "scarf": "scarves", "die": "dice",
    "cactus": "cacti", "snowman": "snowmen", "tomato": "tomatoes", "potato": "potatoes",
    "mango": "mangoes", "volcano": "volcanoes", "tornado": "tornadoes", "moai": "moai",
    "mosquito": "mosquitoes", "buffalo": "buffaloes", "man": "men", "woman": "women",
    "child": "children", "elf": "elves",
}
# fmt: on
UNCHANGED = "fish"  # the plural of nouns that end so is the singular
NOT_RECOLOURED = frozenset(("rainbow", "artist palette"))


@dataclass(frozen=True)
class Noun:
    """An emoji and its noun; `plural` and `article` are "" if the noun is used without them."""

    emoji: Emoji
    singular: str
    plural: str
    article: str

    @property
    def recoloured(self) -> bool:
        """Whether scenes may show it in another colour."""
        return self.singular not in NOT_RECOLOURED


@cache
def nouns() -> tuple[Noun, ...]:
    """Return every thing that scenes show, in the order of `emoji_list`."""
    return tuple(_noun(emoji) for emoji in emoji_list() if _has_noun(emoji))


@cache
def _by_name() -> dict[str, Noun]:
    return {noun.singular: noun for noun in nouns()}


def noun_by_name(name: str) -> Noun:
    """Return the noun with that singular."""
    return _by_name()[name]


def plural(noun: str) -> str:
    """Return the English plural of a singular noun of one or two words."""
    start, last = re.fullmatch(r"(.*?)(\w+)", noun).groups()  # pyright: ignore
    if last in IRREGULAR:
        return start + IRREGULAR[last]
    if last.endswith(UNCHANGED):
        return noun
    if re.search(r"(s|x|z|ch|sh)$", last):
        return noun + "es"
    return noun[:-1] + "ies" if re.search(r"[^aeiou]y$", last) else noun + "s"


def _has_noun(emoji: Emoji) -> bool:
    if emoji.name in ALIASES or emoji.name in PEOPLE:
        return True
    short = len(emoji.words) <= 2 and not NO_NOUN_WORDS & set(emoji.words)
    return short and emoji.subgroup in GROUPS and emoji.name not in LEFT_OUT


def _noun(emoji: Emoji) -> Noun:
    name = ALIASES.get(emoji.name, emoji.name).lower()
    if name in PLURAL_NAMES or name in MASS_NAMES:
        return Noun(emoji, name, "", "")
    return Noun(emoji, name, plural(name), article(name))
