"""Async programs: `async def` bodies, many at once in one thread, and streaming with `async for`.

python examples/async_calls.py
"""

import asyncio

import ramet
from ramet import assistant, gen, user

NUMBERS = [(12, 34), (56, 27), (48, 9)]


@ramet.function
async def add(s, a, b):
    s += user(f"What is {a} + {b}?")
    s += assistant(gen("steps", max_tokens=60, temperature=0))
    return (await s.value("steps")).rpartition("Answer: ")[2]


async def main():
    states = await asyncio.gather(*(add.arun(a=a, b=b) for a, b in NUMBERS))
    return [state.ret_value for state in states]


if __name__ == "__main__":
    for (a, b), answer in zip(NUMBERS, asyncio.run(main())):
        print(f"{a} + {b} = {answer}")
