"""The server: HTTP in one process, the engine in another.

Reading order: `exchange.py` (one request of any protocol: what it generates, how its answers look),
`native.py`, `openai_*.py`, `anthropic_messages.py` (the protocols: JSON values in, JSON values out),
`messages.py` (what the two processes say to each other), `engine_process.py`, `engine_client.py`, and
`app.py`, which ties them to HTTP.
"""
