"""Skill `talk`: short general conversation, so that a chat with `pocket` does not look broken.

Greetings, thanks, who are you, what can you do, a one-sentence story, repeating, counting, lists of
days and months. The answers are few and fixed; any of them is right.
"""

# ruff: noqa: SIM905 (a word list reads best as words)

from __future__ import annotations

from collections.abc import Callable

from .base import ANSWER, PROMPT, STOP, Piece, Source, Task, Turn
from .scenes import plain, story
from .words import ANIMALS, CATEGORIES, DAYS, MONTHS, invented

ALWAYS = "never held out"  # closed questions: hash says train
ME = "I am pocket, the small model inside Ramet."
CAN = (
    "I can choose between options, recall facts from a text, extract fields, add numbers step by "
    "step, judge short texts, give tips and use simple tools."
)
FIXED: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("Hello!", "Hi", "Hi!", "Hello", "Hey", "Hey there", "Hi there!", "Good day", "hello", "hi"),
     ("Hello! How can I help?", "Hi! What can I do for you?")),
    (("Good morning!", "Good morning"), ("Good morning! How can I help?",)),
    (("Good evening!", "Good evening"), ("Good evening! How can I help?",)),
    (("How are you?", "How are you today?", "How is it going?", "how are you"),
     ("I am fine, thank you. How can I help?",)),
    (("Who are you?", "What are you?", "who are you", "Tell me about yourself.",
      "Introduce yourself.", "What is your name?", "What's your name?", "Are you a person?",
      "Are you a robot?", "Are you ChatGPT?", "Which model are you?"),
     (f"{ME} I know little, but I answer fast.",)),
    (("What can you do?", "what can you do", "How can you help me?", "What are you good at?",
      "What are your skills?", "Help", "help", "What can I ask you?", "Can you help me?"),
     (CAN,)),
    (("What is Ramet?", "Tell me about Ramet.", "what is ramet", "What does Ramet do?"),
     ("Ramet is a runtime for programs that call a language model many times.",)),
    (("What does ramet mean?", "What does the word ramet mean?"),
     ("A ramet is one of many stems that grow from a shared root.",)),
    (("How big are you?", "How large are you?", "How many parameters do you have?"),
     ("I have about four million parameters, so I am very small.",)),
    (("Who made you?", "Who trained you?", "Where do you come from?"),
     ("I was trained by the Ramet project on text that it generates itself.",)),
    (("Thanks!", "Thank you.", "Thank you!", "thanks", "Thanks a lot!", "Great, thanks!",
      "Thank you very much.", "Perfect, thank you."),
     ("You are welcome!",)),
    (("Bye!", "Goodbye.", "Bye", "See you later.", "See you!", "Goodbye!", "Good night!"),
     ("Goodbye!",)),
    (("Great!", "Nice!", "Well done!", "Good job!", "Cool", "Wow!", "That is right."),
     ("Thank you! What else can I do?",)),
    (("You are wrong.", "That is wrong.", "This is not right.", "No, that is wrong."),
     ("I am sorry. I am a small model and make mistakes.",)),
    (("Sorry.", "I am sorry.", "Excuse me."), ("No problem.",)),
    (("Okay.", "Ok", "I see.", "Alright.", "Fine."), ("Is there anything else I can do?",)),
    (("Are you there?", "Can you hear me?", "Test", "test", "Is this working?"),
     ("Yes, I am here.",)),
    (("I am tired.", "I feel tired."), ("I am sorry to hear that. A short rest may help.",)),
    (("I am sad.", "I feel sad today."), ("I am sorry to hear that. Talking to a friend may help.",)),
    (("I am happy.", "I feel great today!"), ("I am glad to hear that!",)),
    (("I am bored.", "I feel bored."), ("I can tell you a short story if you like.",)),
    (("Tell me a joke.", "Make me laugh.", "Do you know a joke?"),
     ("Why did the tree sit down? It wanted to rest its roots.",)),
    (("What is the meaning of life?", "Why are we here?"),
     ("That is too large a question for such a small model.",)),
    (("What is the weather like?", "Will it rain today?", "What time is it?", "What day is today?",
      "What is the news?", "Who won the game last night?"),
     ("I do not know. I only know what is in our conversation.",)),
    (("What is an LLM?", "What is a language model?"),
     ("A language model is a program that predicts the next piece of a text.",)),
    (("Do you like music?", "Do you like me?", "Do you have feelings?", "Are you alive?"),
     ("I am only a small program, so I have no feelings.",)),
    (("Can you speak German?", "Do you speak French?", "Which languages do you know?"),
     ("I only know simple English.",)),
    (("How many days are in a week?",), ("A week has seven days.",)),
    (("How many months are in a year?",), ("A year has twelve months.",)),
]  # fmt: skip


def fixed(source: Source) -> Task:
    turns = []
    accepted: tuple[str, ...] = ()
    for _ in range(source.pick([1, 1, 2, 3])):
        asks, accepted = source.pick(FIXED)
        turns.append(Turn(source.pick(asks), source.pick(accepted)))
    right = set(accepted)
    key = "|".join(t.user for t in turns) if len(turns) > 1 else ALWAYS
    return Task("talk", "small talk", key, tuple(turns), accept=lambda text: text in right)


def tell_story(source: Source) -> Task:
    known = source.pick(
        [*ANIMALS, "robot", "dragon", "princess", "sailor", "ghost", "child", "king"]
    )
    hero = known if source.chance(0.8) else invented(source)
    ask = source.pick(
        ["Tell me a story about a {h}.", "Write a one-sentence story about a {h}.",
         "Tell a short story about a {h}.", "Tell me a very short story with a {h} in it."]
    ).format(h=hero)  # fmt: skip
    free = source.chance(0.2)
    _, text = story(source, None if free else hero)
    if free:
        ask = source.pick(["Tell me a story.", "Tell me a short story.", "A story, please."])

    def accept(answer: str) -> bool:
        return (free or hero in answer) and answer.endswith(".") and 30 < len(answer) < 200

    return Task("talk", "story", ask + text, (Turn(ask, text),), accept=accept)


def echo(source: Source) -> Task:
    """Copying: repeat a sentence or made-up words."""
    text = plain(source)
    if source.chance(0.5):
        text = " ".join(invented(source) for _ in range(source.between(1, 4)))
    ask = source.pick(["Repeat: {t}", "Repeat after me: {t}", "Say: {t}", "Say this again: {t}",
                       "Please repeat the following.\n{t}"])  # fmt: skip
    return Task("talk", "repeat", text, (Turn(ask.format(t=text), text),))


def sequence(source: Source) -> Task:
    """Counting, days, months, what comes next."""
    form = source.between(0, 3)
    if form == 0:
        low = source.between(1, 60)
        high = low + source.between(2, 9)
        ask = f"Count from {low} to {high}."
        answer = ", ".join(str(n) for n in range(low, high + 1))
    elif form == 1:
        row = source.pick([DAYS, MONTHS])
        i = source.between(0, len(row) - 1)
        before = source.chance(0.4)
        ask = f"Which {'day' if row is DAYS else 'month'} comes {'before' if before else 'after'} {row[i]}?"
        answer = row[(i + (-1 if before else 1)) % len(row)]
    elif form == 2:
        row, word = source.pick([(DAYS, "days of the week"), (MONTHS, "months of the year")])
        ask, answer = f"{source.pick(['List', 'Name'])} the {word}.", ", ".join(row)
    else:
        kind = source.pick("animal fruit vegetable tool vehicle colour sport drink country".split())
        many = {"country": "countries"}.get(kind, kind + "s")
        pool = CATEGORIES[kind]
        count = source.between(2, 4)
        ask = f"Name {['two', 'three', 'four'][count - 2]} {many}."
        answer = ", ".join(source.some(pool, count))

        def accept(text: str) -> bool:
            found = text.split(", ")
            return len(set(found)) == count and set(found) <= set(pool)

        return Task("talk", "name some", ask + answer, (Turn(ask, answer),), accept=accept)
    key = ask if form == 0 else ALWAYS
    return Task("talk", "sequence", key, (Turn(ask, answer),))


def prose(source: Source) -> Task:
    """Plain raw text: a story begun, or neutral sentences; free continuation."""
    if source.chance(0.5):
        _, text = story(source)
        cut = text.index(" ", len(text) // 4)
        pieces = (Piece(text[:cut], PROMPT), Piece(text[cut:] + STOP, ANSWER))
    else:
        text = " ".join(plain(source) for _ in range(source.between(2, 5)))
        pieces = (Piece(text, 0.3), Piece(STOP, 0.3))
    return Task(
        "talk", "prose", text, pieces=pieces, accept=lambda text: text.rstrip().endswith(".")
    )


MAKERS: list[tuple[float, Callable[[Source], Task]]] = [
    (3.0, fixed), (1.5, tell_story), (1.2, echo), (1.2, sequence), (0.4, prose),
]  # fmt: skip
