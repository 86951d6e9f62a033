"""The engine: requests in, tokens out, one radix tree in the middle.

Reading order: `request.py` (what is wanted), `schedule.py` with `policy.py` (which tokens this step
computes), `batch.py` (the arrays of one step), `runner.py` (the forward pass), `sampler.py`, and
`loop.py`, whose `step()` ties them together. `text.py` turns tokens into text. Knows nothing of the
language and of the hosts that drive `step()`.
"""
