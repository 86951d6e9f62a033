"""The words of the generated world: categories, opposites, names; closed lists and made-up names.

It knows which word belongs where and no sentence. Made-up names are built from syllables, so that
there are far more of them than training can show: copying has to be learned, not names.
"""

# ruff: noqa: SIM905 (a word list reads best as words)

from __future__ import annotations

from .base import Source, capital

CATEGORIES: dict[str, list[str]] = {
    "animal": (
        "dog cat horse cow pig sheep goat lion tiger bear wolf fox rabbit deer elephant giraffe "
        "monkey zebra camel mouse squirrel otter"
    ).split(),
    "bird": "eagle owl robin sparrow crow pigeon duck goose swan parrot penguin gull falcon".split(),
    "fish": "salmon trout tuna cod herring carp pike sardine".split(),
    "insect": "ant bee wasp beetle moth butterfly mosquito cricket".split(),
    "fruit": (
        "apple pear banana orange lemon cherry grape peach plum mango melon strawberry fig kiwi"
    ).split(),
    "vegetable": "carrot potato onion cabbage spinach leek turnip celery broccoli radish".split(),
    "tool": "hammer saw screwdriver drill wrench chisel axe shovel rake pliers".split(),
    "vehicle": "car bus train truck bicycle tram boat ship plane van motorbike ferry".split(),
    "piece of furniture": "table chair sofa bed desk shelf wardrobe bench stool cupboard".split(),
    "piece of clothing": "shirt coat hat scarf glove sock skirt jacket sweater belt".split(),
    "instrument": "piano guitar violin flute drum trumpet harp cello clarinet banjo".split(),
    "colour": "red blue green yellow purple brown black white pink grey".split(),
    "drink": "water tea coffee milk juice lemonade cocoa cider".split(),
    "sport": "tennis football hockey swimming rowing golf boxing rugby skiing judo".split(),
    "job": (
        "teacher nurse farmer baker pilot doctor painter lawyer driver cook plumber singer gardener "
        "writer tailor carpenter librarian builder dentist waiter"
    ).split(),
    "country": (
        "France Spain Italy Japan Brazil Canada Egypt India Norway Kenya Peru Greece Poland Chile "
        "Sweden Portugal Germany Austria Cuba Finland"
    ).split(),
}
COLOURS = CATEGORIES["colour"]
JOBS = CATEGORIES["job"]
ANIMALS = CATEGORIES["animal"]
PETS = "dog cat rabbit parrot hamster goldfish turtle pony lizard canary".split()
FOODS = "pizza soup pasta rice salad bread cheese pancakes curry noodles stew pie".split()
PLURALS = (
    "apples pears books coins marbles stamps pencils eggs shells cards stickers buttons candles "
    "cookies oranges tickets stones flowers toys bottles"
).split()
CAPITALS = {
    "France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Japan": "Tokyo", "Egypt": "Cairo",
    "Canada": "Ottawa", "Norway": "Oslo", "Kenya": "Nairobi", "Peru": "Lima", "Greece": "Athens",
    "Poland": "Warsaw", "Chile": "Santiago", "Sweden": "Stockholm", "Portugal": "Lisbon",
    "Germany": "Berlin", "Austria": "Vienna", "Cuba": "Havana", "Finland": "Helsinki",
}  # fmt: skip
CITIES = [
    *CAPITALS.values(), "London", "Boston", "Madras", "Geneva", "Porto", "Bergen", "Turin", "Lyon",
    "Kyoto", "Denver", "Dublin", "Prague", "Milan", "Seville", "Hamburg", "Austin", "Leeds",
]  # fmt: skip
OPPOSITES: list[tuple[str, str]] = [
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("early", "late"), ("happy", "sad"),
    ("light", "dark"), ("hard", "soft"), ("high", "low"), ("young", "old"), ("rich", "poor"),
    ("full", "empty"), ("open", "closed"), ("loud", "quiet"), ("wet", "dry"), ("long", "short"),
    ("strong", "weak"), ("clean", "dirty"), ("near", "far"), ("thick", "thin"), ("up", "down"),
    ("left", "right"), ("day", "night"), ("win", "lose"), ("buy", "sell"), ("push", "pull"),
    ("begin", "end"), ("friend", "enemy"), ("heavy", "weightless"), ("true", "false"),
    ("inside", "outside"), ("always", "never"), ("sweet", "bitter"), ("sharp", "blunt"),
    ("deep", "shallow"), ("wide", "narrow"), ("smooth", "rough"), ("love", "hate"),
    ("first", "last"), ("brave", "afraid"), ("cheap", "expensive"), ("safe", "dangerous"),
    ("summer", "winter"), ("give", "take"), ("above", "below"), ("before", "after"),
    ("easy", "difficult"), ("polite", "rude"), ("awake", "asleep"), ("laugh", "cry"),
    ("ancient", "modern"), ("north", "south"), ("east", "west"),
]  # fmt: skip
SIZES: list[list[str]] = [  # each row is larger than the row before
    "ant flea grain crumb mosquito pin".split(),
    "mouse spoon key apple egg sparrow".split(),
    "cat shoe rabbit pillow goose guitar".split(),
    "horse sofa lion piano tiger wardrobe".split(),
    "bus elephant truck tram lorry whale".split(),
    "mountain city ocean forest island lake".split(),
]
FIRST = (
    "Ana Ben Carla David Elena Felix Grace Hugo Ivy Jonas Karin Leo Mia Nora Oscar Paula Quinn Rosa "
    "Sam Tara Uma Victor Wendy Yara Zoe Adam Bella Clara Daniel Emma Finn Gina Henry Ines Jack Kate "
    "Lena Max Nina Olga Peter Rita Simon Tom Vera Will Alice Bob Carol Erik Maria Omar Priya Kofi "
    "Lucy Mark Anna Paul Ruth John Mary Joe Ella Ian Amir Yuki Chen Aisha Diego Ingrid"
).split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_HEADS = (
    "b d f g k l m n p r s t v w z br dr gr kr pr tr st sh th ch j h fl gl sk qu bl cl sn x y"
).split()
_CORES = "a e i o u a e i o ai ea ee oo ou ie ar er or an en in on el al il um".split()
_TAILS = ["", "", "", "n", "l", "r", "s", "k", "m", "th", "x", "sh", "nd", "rt", "ck", "v", "ll"]


def invented(source: Source, low: int = 2, high: int = 3) -> str:
    """A made-up word in lower case, of `low` to `high` syllables, of the source's split."""

    def draw() -> str:
        count = source.between(low, high)
        body = "".join(source.pick(_HEADS) + source.pick(_CORES) for _ in range(count))
        return body + source.pick(_TAILS)

    return source.until(draw, lambda word: word)


def name(source: Source) -> str:
    """A first name: known half of the time in training, always made up when held out."""
    if not source.held and source.chance(0.45):
        return source.pick(FIRST)
    return capital(invented(source, 1, 3))


def full_name(source: Source) -> str:
    return f"{name(source)} {capital(invented(source))}" if source.chance(0.4) else name(source)


def place(source: Source) -> str:
    """A town: known or made up."""
    if source.chance(0.5):
        return source.pick(CITIES)
    return capital(invented(source)) + source.pick(["", "", "", "ton", "ville", "burg", " Bay"])


def names(source: Source, count: int) -> list[str]:
    """`count` different first names."""
    found: list[str] = []
    while len(found) < count:
        new = name(source)
        if new not in found:
            found.append(new)
    return found


def clock(source: Source) -> str:
    return f"{source.between(1, 12)}:{source.pick(['00', '15', '30', '45', '10', '20', '40'])}"


def digits(source: Source, count: int) -> str:
    return "".join(str(source.between(0, 9)) for _ in range(count))
