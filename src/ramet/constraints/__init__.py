"""What the next token may be: regular expressions, JSON Schemas and grammars over a vocabulary.

`matcher` is what the engine sees of all of them.
"""
