"""Sentences of the generated world: reviews, topics, endings, neutral filler. All hand-written.

It knows templates, and how to fill them; what a sentence is good for is its user's business.
"""

# ruff: noqa: SIM905 (a word list reads best as words)

from __future__ import annotations

from .base import Source, article, capital
from .words import ANIMALS, COLOURS, FOODS, place

_THINGS = (
    "film book meal hotel phone game song chair restaurant show lamp trip jacket camera concert "
    "bakery app course tent radio"
).split()
_GOOD = [
    "I loved every minute of it.", "It was wonderful.", "The {t} was excellent.",
    "I would buy it again at once.", "It made my whole family smile.", "What a delightful {t}!",
    "It works perfectly.", "The {t} is worth every penny.", "I can only recommend it.",
    "The best {t} I have had in years.", "Everything was fresh and friendly.",
    "I was happy from start to finish.", "Simply beautiful.", "A great {t} at a fair price.",
    "It is better than I hoped.", "I enjoyed it very much.", "Five stars from me.",
    "The {t} is fantastic.", "A lovely surprise.", "I am delighted with this {t}.",
    "A brilliant {t}.", "My friends loved it too.", "Superb quality.", "I had a great time.",
]  # fmt: skip
_BAD = [
    "I hated every minute of it.", "It was terrible.", "The {t} was awful.",
    "I want my money back.", "It broke after two days.", "What a boring {t}!",
    "It does not work at all.", "The {t} is a waste of money.", "I cannot recommend it.",
    "The worst {t} I have had in years.", "Everything was dirty and slow.",
    "I was disappointed from start to finish.", "Simply ugly.", "A bad {t} at a high price.",
    "It is worse than I feared.", "I did not enjoy it.", "One star is too many.",
    "The {t} is horrible.", "A nasty surprise.", "I am angry about this {t}.",
    "A dreadful {t}.", "My friends hated it too.", "Poor quality.", "I had an awful time.",
]  # fmt: skip
_FLAT = [
    "We bought the {t} on {d}.", "My brother told me about this {t}.", "It was raining that day.",
    "I tried the {t} with a friend.", "The {t} came in a {c} box.", "We went there on {d}.",
    "This was my second {t} this year.", "I read about it in the paper.",
]  # fmt: skip


def review(source: Source, good: bool) -> str:
    """A review of one to four sentences with a clear opinion."""
    thing = source.pick(_THINGS)
    lines = source.some(_GOOD if good else _BAD, source.between(1, 3))
    if source.chance(0.5):
        lines.insert(source.between(0, len(lines)), source.pick(_FLAT))
    day = source.pick(["Monday", "Friday", "Sunday", "Saturday"])
    return " ".join(lines).format(t=thing, d=day, c=source.pick(COLOURS))


TOPICS: dict[str, list[str]] = {
    "sport": [
        "{n} scored the winning goal in the last minute.", "The team trained hard for the match.",
        "{p} ran the race in record time.", "The coach praised the players after the game.",
        "Fans cheered when {n} won the tennis final.", "The goalkeeper saved three shots.",
        "{p} will play for a new club next season.", "Our swimmers won two medals.",
    ],
    "weather": [
        "Heavy rain is expected in the north.", "{n} took an umbrella because of the dark clouds.",
        "The storm brought strong winds and hail.", "It will be sunny and warm tomorrow.",
        "Snow fell all night over the hills.", "Thick fog covered the valley this morning.",
        "The temperature drops below zero tonight.", "{p} watched the lightning from the window.",
    ],
    "food": [
        "{n} baked bread with seeds and honey.", "The soup needs more salt and pepper.",
        "{p} cooked rice with fresh vegetables.", "The new restaurant serves spicy noodles.",
        "We ate pancakes with berries for breakfast.", "The chef shared a recipe for apple pie.",
        "This cheese tastes best with ripe pears.", "{n} fried onions and garlic for the sauce.",
    ],
    "money": [
        "The bank raised its interest rates again.", "{n} saves part of the salary every month.",
        "Share prices fell after the report.", "The company doubled its profit last year.",
        "{p} paid back the loan early.", "Taxes on fuel will go up.",
        "The budget leaves little for new investments.", "{n} compared the costs of two accounts.",
    ],
    "health": [
        "The doctor told {n} to rest and drink water.", "A short walk lowers the blood pressure.",
        "{p} took medicine against the fever.", "The nurse put a bandage on the wound.",
        "Good sleep helps the body to heal.", "The hospital opened a new clinic for eyes.",
        "{n} has a sore throat and a cough.", "The dentist found a small hole in the tooth.",
    ],
    "music": [
        "{n} played the violin in the evening concert.", "The band recorded a new album.",
        "{p} sang an old song at the festival.", "The choir practised for hours.",
        "The drummer kept a steady rhythm.", "{n} tuned the guitar before the show.",
        "The orchestra opened with a quiet melody.", "Her piano teacher wrote a short tune.",
    ],
    "travel": [
        "{n} booked a flight and a hotel by the sea.", "The train to the coast leaves at noon.",
        "{p} packed a suitcase for the long journey.", "Tourists visited the old castle.",
        "We lost our passports at the airport.", "The guide showed {n} the way to the harbour.",
        "They crossed the border by bus.", "The travellers slept in a small inn.",
    ],
    "school": [
        "{n} forgot to do the homework.", "The teacher explained the lesson again.",
        "{p} studied for the exam all week.", "The pupils read a chapter in class.",
        "The students got their marks today.", "{n} wrote the answer on the board.",
        "The school library has new textbooks.", "The class learned about fractions.",
    ],
    "technology": [
        "The new phone has a faster chip.", "{n} fixed the bug in the program.",
        "{p} installed an update on the computer.", "The robot sorts parcels by itself.",
        "Engineers tested the software overnight.", "The website was down for an hour.",
        "{n} wrote code for a small app.", "The laptop battery lasts ten hours.",
    ],
    "nature": [
        "The river flows through a quiet forest.", "{n} saw a deer between the trees.",
        "Wild flowers cover the meadow in spring.", "{p} planted an oak near the lake.",
        "Bees carry pollen from bloom to bloom.", "The leaves turn gold in autumn.",
        "A fox crossed the path at dawn.", "Frogs live in the pond behind the hill.",
    ],
}  # fmt: skip

ENDINGS: list[tuple[list[str], list[str]]] = [
    (["{n} picked up the guitar and", "{n} sat down at the piano and"],
     ["played a quiet song.", "began to play a melody.", "sang and played for the guests."]),
    (["{n} was thirsty, so {n}", "After the long run {n}"],
     ["drank a glass of water.", "asked for something to drink.", "filled a cup with cold juice."]),
    (["It began to rain, so {n}", "Dark clouds came and {n}"],
     ["opened the umbrella.", "put on a raincoat.", "ran inside to stay dry."]),
    (["{n} was tired and", "Late at night {n} yawned and"],
     ["went to bed.", "fell asleep on the sofa.", "turned off the light to sleep."]),
    (["{n} was hungry, so {n}", "At noon {n} felt hungry and"],
     ["made a sandwich.", "cooked some pasta.", "ate a bowl of soup."]),
    (["The dog saw the ball and", "{n} threw a stick and the dog"],
     ["ran to fetch it.", "chased it across the grass.", "caught it with its teeth."]),
    (["The room was dark, so {n}", "The lamp was off and {n}"],
     ["switched on the light.", "lit a candle.", "looked for the light switch."]),
    (["{n} found a letter and", "The postman brought a letter and {n}"],
     ["opened it to read the news.", "read it twice.", "read it aloud to the family."]),
    (["The plant looked dry, so {n}", "The flowers hung their heads and {n}"],
     ["watered it with care.", "gave it fresh water.", "fetched the watering can."]),
    (["The kitchen was dirty, so {n}", "After dinner {n}"],
     ["washed the dishes.", "wiped the table clean.", "swept the floor."]),
    (["{n} missed the bus and", "The last train had left, so {n}"],
     ["walked home instead.", "had to wait for the next one.", "called a taxi."]),
    (["It was very cold, so {n}", "Snow covered the street and {n}"],
     ["put on a warm coat.", "lit a fire in the stove.", "wore gloves and a scarf."]),
    (["The baby started to cry and {n}", "The child fell down and {n}"],
     ["picked the little one up.", "gave comfort with a soft voice.", "sang a gentle lullaby."]),
    (["{n} took a brush and some paint and", "In the art class {n}"],
     ["painted a picture of the sea.", "drew a colourful bird.", "painted the old barn red."]),
]  # fmt: skip

_WHO = [
    "The baker", "An old sailor", "My neighbour", "The teacher", "A young painter", "The gardener",
    "Our guide", "The driver", "A farmer", "The librarian", "A quiet student", "The cook",
]  # fmt: skip
_DID = [
    "opened the window", "walked along the river", "told a long story", "cleaned the old workshop",
    "waited for the bus", "wrote a letter", "repaired a broken chair", "watched the clouds",
    "looked for the lost keys", "talked about the village", "carried a heavy bag",
    "sat on a bench in the park", "read the newspaper", "painted a wooden fence",
    "made plans for the holidays", "sorted the papers on the desk", "listened to the radio",
    "swept the stairs", "planted some seeds", "looked at an old map",
]  # fmt: skip
_WHEN = [
    "in the morning", "after lunch", "before sunset", "all afternoon", "as usual", "last week",
    "for a while", "without a word", "with great care", "during the break", "once more", "at last",
]  # fmt: skip
_STATE = [
    "The street was quiet.", "The market was full of people.", "Nobody knew why.",
    "The weather changed slowly.", "It was a normal day.", "The work took longer than planned.",
    "Everyone agreed in the end.", "The path was narrow and steep.", "The bells rang twice.",
    "There was a smell of fresh bread.", "The meeting was short.", "The old bridge is still in use.",
    "The shop closes early.", "Most people stayed at home.", "The garden needs some care.",
    "The road leads to the hills.", "A light wind came from the sea.", "The door was not locked.",
]  # fmt: skip


def plain(source: Source) -> str:
    """A sentence with no name, number, colour, animal, town or question in it."""
    if source.chance(0.3):
        return source.pick(_STATE)
    who, did = source.pick(_WHO), source.pick(_DID)
    if source.chance(0.7):
        return f"{who} {did} {source.pick(_WHEN)}."
    return f"{who} {did} and {source.pick(_DID)}."


def story(source: Source, hero: str | None = None) -> tuple[str, str]:
    """(hero, one sentence): a very short story."""
    kind = source.pick(
        [*ANIMALS, "robot", "baker", "dragon", "princess", "sailor", "ghost", "child"]
    )
    hero = hero or kind
    adjective = source.pick("small brave lonely curious old clever shy happy tired young".split())
    form = source.pick(
        ["{a} found a lantern in the woods and carried it home to light the way for {o}.",
         "Once upon a time {b} shared its last {f} with {o}, and they were friends ever after.",
         "{a} wanted to see the sea, walked for seven days, and wept with joy at the first wave.",
         "Long ago {b} lost a {c} key, and in looking for it found {o} and a new home.",
         "{a} was afraid of the dark until {o} showed it how to count the stars.",
         "One winter {b} built a boat of ice, and it sailed until spring came.",
         "{a} learned to bake {f}, and soon the whole of {p} came to taste it.",
         "{a} planted a {c} seed, and by morning a tree had grown up to the moon.",
         "Every night {b} told the moon a secret, and one night the moon answered.",
         "{a} followed a {c} feather over the hills and met {o} at the end of the path."]
    )  # fmt: skip
    thing = article(f"{adjective} {hero}")
    other = article(source.pick([a for a in ANIMALS if a != hero]))
    text = form.format(
        a=capital(thing), b=thing, o=other, f=source.pick(FOODS), c=source.pick(COLOURS),
        p=place(source),
    )  # fmt: skip
    return hero, text
