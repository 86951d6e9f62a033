"""Skeleton of thought: list two tips, expand both at once, then put the answer together.

python examples/tip_suggestion.py
"""

import ramet
from ramet import assistant, gen, user


@ramet.function
def expand_tip(s, topic, tip):
    s += user(f"Topic: {topic}\nTip: {tip}\nWrite a paragraph.")
    s += assistant(gen("paragraph", max_tokens=80, temperature=0))


@ramet.function
def tip_suggestion(s, topic="staying healthy"):
    s += user(f"List two tips for {topic}.")
    s += assistant(
        "1." + gen("first", stop="\n", max_tokens=24, temperature=0)
        + "\n2." + gen("second", stop="\n", max_tokens=24, temperature=0)
    )  # fmt: skip

    # Two programs, called from this one; they start together and share the text before the tip.
    titles = [s["first"].strip(), s["second"].strip()]
    expanded = expand_tip.run_batch([{"topic": topic, "tip": title} for title in titles])

    s["tips"] = titles
    s["paragraphs"] = [state["paragraph"].strip() for state in expanded]


if __name__ == "__main__":
    state = tip_suggestion.run(topic="studying for exams")
    for title, paragraph in zip(state["tips"], state["paragraphs"]):
        print(f"* {title}: {paragraph}")
