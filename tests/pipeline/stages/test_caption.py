"""Captions go into the rows of a pair set, and nothing else changes."""

from __future__ import annotations

import numpy as np

from pipeline.cluster.sink import split_errors
from pipeline.stages.caption import CaptionPairs, has_captions
from pipeline.tables.ids import pair_seed, real_pair_id
from pipeline.tables.schema import PAIR
from tests.pipeline.stages.fabricated import rows_of


class Stub:
    """Says which grey it sees, with which seed; nothing of black pictures."""

    def __init__(self) -> None:
        self.loads = 0
        self.calls: list[int] = []

    def load(self) -> Stub:
        self.loads += 1
        return self

    def __call__(self, images: list[np.ndarray], *, seeds: list[int]) -> list[list[str]]:
        self.calls.append(len(images))
        pairs = zip((int(image[0, 0, 0]) for image in images), seeds, strict=True)
        return [[f" grey {grey} ", "", f"grey {grey}", f"seed {seed}"] if grey else [" "] for grey, seed in pairs]


def test_rows_get_captions_and_keep_all_else():
    stub, rows = Stub(), rows_of([None, None, "", "mine"], [None, None, [], ["mine", "too"]])
    made, failed = split_errors(CaptionPairs(stub.load, batch_size=8, run_seed=3)(rows))
    assert failed.select(["pair_id", "reason"]).to_pylist() == [
        {"pair_id": real_pair_id("set", "0"), "reason": "no_caption"}
    ]
    seeds = [pair_seed(3, real_pair_id("set", str(row)), 0) for row in (1, 2)]
    assert made["captions"].to_pylist() == [
        ["grey 20", f"seed {seeds[0]}"], ["grey 40", f"seed {seeds[1]}"], ["mine", "too"],
    ]  # fmt: skip
    assert made["prompt"].to_pylist() == ["grey 20", "grey 40", "mine"]
    same = [name for name in PAIR.names if name not in ("prompt", "captions")]
    assert made.select(same).equals(rows.slice(1).select(same))
    assert (stub.loads, stub.calls) == (1, [8]), "one shape, whatever the number of rows"


def test_captions_that_are_there_stay_and_need_no_model():
    stub = Stub()
    rows = rows_of(["mine", "mine", None], [None, ["mine"], ["ours"]])
    stage = CaptionPairs(stub.load, batch_size=4)
    assert stage(rows).select(PAIR.names).equals(rows) and stub.loads == 0
    assert has_captions(rows_of([" ", None, "a"], [[], None, None])).tolist() == [False, False, True]
    assert stage(rows.slice(0, 0)).num_rows == 0
    anew = CaptionPairs(stub.load, batch_size=4, keep=False)(rows)
    assert anew["prompt"].to_pylist()[1:] == ["grey 20", "grey 40"] and stub.loads == 1


def test_a_broken_picture_is_an_error_row():
    made = CaptionPairs(Stub().load, batch_size=4)(rows_of([None] * 3, [None] * 3, broken=1))
    assert made["error"].to_pylist() == ["no_caption", "undecodable_input", ""]
    assert "not a picture that can be decoded" in made["error_detail"][1].as_py()
