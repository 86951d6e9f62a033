"""A server for this program alone: what ran on the embedded engine runs on it, and so does plain HTTP."""

import httpx

import ramet
from ramet import assistant, function, gen, select, user


@function
def sums(s, a, b):
    s += user(f"What is {a} + {b}?")
    s += assistant(gen("answer", max_tokens=60))


@function
def review(s, text):
    s += "Review: " + text + "\nSentiment:"
    s += select("label", [" positive", " negative"])


def main():
    with ramet.Runtime(model_path="pocket", max_cache_tokens=20_000) as server:
        state = sums.run(a=23, b=45, backend=server)
        print(state["answer"])
        print(review.run(text="A great tent at a fair price.", backend=server)["label"])

        question = {"messages": [{"role": "user", "content": "What is 23 + 45?"}], "max_tokens": 60}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=question, timeout=60).json()
        print(answer["choices"][0]["message"]["content"])
        print(
            answer["usage"]["prompt_tokens_details"]["cached_tokens"], "prompt tokens were cached"
        )
        return state["answer"], answer


if __name__ == "__main__":
    main()
