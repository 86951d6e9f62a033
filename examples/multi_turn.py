"""A chat of several turns: each turn computes only what is new.

python examples/multi_turn.py
"""

import ramet
from ramet import assistant, gen, user


@ramet.function
def chat(s, turns):
    answers = []
    for turn in turns:
        s += user(turn)
        s += assistant(gen("answer", max_tokens=40, temperature=0))
        answers.append(s["answer"])
    return answers


TURNS = [
    "My name is Marisol and I live in Lima.",
    "My favourite colour is green.",
    "What is 23 + 45?",
    "What is my favourite colour? Answer in one word.",
]


def main():
    state = chat.run(turns=TURNS)
    return list(zip(TURNS, state.ret_value))


if __name__ == "__main__":
    for question, answer in main():
        print(f"you    > {question}\npocket > {answer}")
