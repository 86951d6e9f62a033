"""The language: what a program is and how its operations run on a backend.

Knows level 0 (errors, params, prompt, backend, config) and the standard library. Refuses to know any
concrete backend, any tensor, and any server: whatever runs models is met through `ramet.backend`.

The rooms, in the order in which one operation passes them: `api` (what a program writes) makes records
of `ir`; `state` puts them into the program's order and promises their results; `lower` turns them into
calls; `chain` runs them one after the other on the loop of `runtime`, through `interpreter.execute`.
"""
