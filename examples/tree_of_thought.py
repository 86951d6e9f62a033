"""Tree of thought: several plans, several solutions of each, each solution scored; the best one wins.

    python examples/tree_of_thought.py

Every level forks what the level before has written; nothing that branches share is computed twice.
"""

import re

import ramet
from ramet import assistant, gen, user

PROBLEM = (
    "There are 37 apples in the first box and 48 in the second. How many apples are there in all?"
)
WARM = {"temperature": 0.3, "max_tokens": 90}


@ramet.function
def tree_of_thought(s, problem=PROBLEM, width=2):
    s += user(f"Make a plan to solve this problem. Do not solve it yet.\n{problem}")
    plans = s.fork(width)
    plans += assistant(gen("plan", **WARM))
    solutions = []
    for plan in plans:
        plan += user("Solve the problem step by step with this plan.")
        tries = plan.fork(width)
        tries += assistant(gen("solution", **WARM))
        tries += user("Check the answer and give a score from 1 to 10.")
        tries += assistant(gen("check", max_tokens=90, temperature=0))
        solutions += list(tries)
    s["best"] = max(solutions, key=score)["solution"]


def score(branch):
    """The number that the model gave; 0 if it gave none."""
    found = re.search(r"Score: (\d+)", branch["check"])
    return int(found[1]) if found else 0


if __name__ == "__main__":
    print(tree_of_thought.run()["best"])
