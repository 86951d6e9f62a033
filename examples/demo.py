"""Judge an essay on three dimensions at once, then sum up.

    ramet run examples/demo.py

The three branches share the essay: it is computed once. `fork` costs nothing, `join` brings the
branches' variables home as lists, and `select` picks the grade by its probability.
"""

import ramet
from ramet import assistant, gen, select, user, user_begin, user_end

ESSAY = (
    "Many people talk about night trains. A survey found that 64 percent of families use them. "
    'They make daily life easier. The report from Vienna says that "they work well". '
    "Only time will tell. A town should plan for them. To be honest, and I say this quite honestly, "
    "one could honestly say so."
)
DIMENSIONS = {
    "Clarity": "short sentences without filler",
    "Originality": "no cliché phrases",
    "Evidence": "numbers or sources",
}


@ramet.function
def judge(s, essay=ESSAY):
    s += user_begin() + "Here is an essay.\n\n" + essay + "\n\n"

    branches = s.fork(len(DIMENSIONS))
    for branch, (dimension, meaning) in zip(branches, DIMENSIONS.items()):
        branch += f"Evaluate the essay on the dimension {dimension}. ({dimension}: {meaning})"
        branch += user_end()
        branch += assistant(gen("judgement", max_tokens=80, temperature=0))
    branches.join()

    s += "Is this essay about night trains? Answer yes or no." + user_end()
    s += assistant(select("on_topic", ["yes", "no"]))

    judgements = "\n".join(f"{d}: {j}" for d, j in zip(DIMENSIONS, s["judgement"]))
    s += user(f"Judgements:\n{judgements}\n\nWrite a one-sentence summary and a grade from A to D.")
    s += assistant(
        "Summary:" + gen("summary", max_tokens=60, stop="\n", temperature=0)
        + "\nGrade: " + select("grade", ["A", "B", "C", "D"])
    )  # fmt: skip


if __name__ == "__main__":
    state = judge.run()
    for dimension, judgement in zip(DIMENSIONS, state["judgement"]):
        print(f"{dimension}: {judgement}")
    print("Summary:", state["summary"].strip())
    print("Grade:", state["grade"])
