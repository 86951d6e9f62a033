"""ReAct: the model thinks and asks for a tool, Python runs it, the model goes on.

python examples/react.py
"""

import re

import ramet
from ramet import gen

FACTS = {
    "Vihenr Castle": "town: Thisoleart, height: 759, built: 1744",
    "Ada Quill": "born: 1974, job: lawyer, home: Lisbon",
}


def use_tool(action):
    """Run `calculate[...]` or `lookup[...]`; what is wrong with a call is told, not raised."""
    match = re.fullmatch(r"\s*(calculate|lookup)\[(.*)\]", action.strip())
    if match is None:
        return "unknown action"
    tool, argument = match.groups()
    if tool == "lookup":
        return FACTS.get(argument, "nothing found")
    numbers = re.fullmatch(r"\s*(\d+)\s*\+\s*(\d+)\s*", argument)
    return str(int(numbers[1]) + int(numbers[2])) if numbers else "cannot calculate that"


@ramet.function
def react(s, question="What was the job of Ada Quill?", max_steps=3):
    s += "Solve the question by thoughts, actions and observations. Tools: calculate, lookup.\n\n"
    s += f"Question: {question}\n"
    for _ in range(max_steps):
        s += "Thought:" + gen("thought", stop="\n", max_tokens=40, temperature=0) + "\n"
        s += gen("step", stop=[":"], max_tokens=4, temperature=0) + ":"
        if s["step"].strip() != "Action":
            break
        s += gen("action", stop="\n", max_tokens=40, temperature=0)
        s += f"\nObservation: {use_tool(s['action'])}\n"
    s += gen("answer", stop="\n", max_tokens=20, temperature=0)


def main():
    questions = ["What was the job of Ada Quill?", "What is 23 + 45?"]
    return [(q, react.run(question=q)["answer"].strip()) for q in questions]


if __name__ == "__main__":
    for question, answer in main():
        print(question, "->", answer)
