"""From documents to batches of token ids and loss weights. Knows the tokenizer, not the network.

A batch depends on the seed and its number alone, so a run that resumes needs no stored position. A
row is unrelated documents one after the other, cut at its end. Pieces are tokenized one by one:
where a program's text ends and the model's begins, no token reaches across.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from .skills import Piece, Source, document, drill_document, long_document


@dataclass(frozen=True)
class Batch:
    """ids: (rows, length + 1); weights: (rows, length), the weight of predicting ids[:, 1:]."""

    ids: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]


def encode(tokenizer: Tokenizer, pieces: list[Piece]) -> tuple[list[int], list[float]]:
    ids: list[int] = []
    weights: list[float] = []
    for piece, found in zip(pieces, tokenizer.encode_batch([p.text for p in pieces]), strict=True):
        ids += found.ids
        weights += [piece.weight] * len(found.ids)
    return ids, weights


def batch(tokenizer: Tokenizer, seed: str, rows: int, length: int, drills: float = 0.0) -> Batch:
    """Rows of `length` predictions; rows longer than 512 tokens hold some long documents.

    drills: the share of documents that are copying drills and nothing else.
    """
    source = Source(seed)
    all_ids, all_weights = [], []
    for _ in range(rows):
        ids: list[int] = []
        weights: list[float] = []
        while len(ids) <= length:
            room = length - len(ids)
            is_long = room > 700 and source.chance(0.35)
            make = long_document if is_long else document
            if drills and source.chance(drills):
                make = drill_document
            found = encode(tokenizer, make(source))
            ids += found[0]
            weights += found[1]
        all_ids.append(ids[: length + 1])
        all_weights.append(weights[1 : length + 1])
    return Batch(np.array(all_ids, dtype=np.int64), np.array(all_weights, dtype=np.float32))
