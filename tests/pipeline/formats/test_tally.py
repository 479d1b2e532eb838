"""A tally of parts, joined, is the tally of the whole."""

from __future__ import annotations

import json

import pytest

from models.labels import VOC
from pipeline.formats.tally import NUM_SHOWN, Tally
from pipeline.pictures.codec import decode_image, decode_mask
from tests.pipeline.formats.fabricated import Made, save_set


@pytest.fixture
def made(tmp_path) -> Made:
    return save_set(tmp_path, VOC, 6)


def tallied(made: Made, rows: list[str], tally: Tally) -> Tally:
    for name in rows:
        row = made.rows[name]
        tally.add(row, decode_image(row["image"], name), VOC.colours(decode_mask(row["mask"], name)))
    return tally


def test_pairs_are_counted_by_what_they_are(made):
    tally = tallied(made, list(made.rows), Tally.of(0, 1))
    masks = list(made.masks.values())
    counts = tally.counts
    assert tally.num_pairs == 6
    assert counts["origin"] == {"real": 5, "synthetic": 1} and counts["bundle"] == {"b" * 16: 1}
    assert counts["source"] == {"shapes/train": 5, "": 1}
    assert counts["size"] == {"32 x 32": 2, "24 x 40": 2, "40 x 24": 2}
    assert counts["pixels"]["255"] == sum((mask == 255).sum() for mask in masks) == 6 * 3
    assert counts["images"]["20"] == sum((mask == 20).any() for mask in masks)
    assert counts["pixels"].total() == sum(mask.size for mask in masks)
    # Real pairs have two captions, "a 0" and "b"; the generated one has a prompt of two words.
    assert counts["text"] == {"pairs": 6, "captions": 11, "words": 5 * 3 + 2}


def test_parts_joined_are_the_whole_whatever_way_they_went(made):
    names = list(made.rows)
    whole = tallied(made, names, Tally.of(0, 1))
    parts = [tallied(made, part, Tally.of(index, 3)) for index, part in enumerate((names[:1], names[1:4], names[4:]))]
    joined = Tally.joined(json.loads(json.dumps(part.dump())) for part in parts)
    assert joined.counts == whole.counts
    assert [one["pair_id"] for one in joined.shown] == [names[0], *names[1:4], *names[4:]]
    assert Tally.joined([]).num_pairs == 0


def test_all_parts_together_show_enough_and_none_shows_too_much(made):
    for total in (1, 3, NUM_SHOWN, 100):
        rooms = [Tally.of(index, total).room for index in range(total)]
        assert sum(rooms) >= NUM_SHOWN and rooms[NUM_SHOWN:] == [0] * max(0, total - NUM_SHOWN)
    name = next(iter(made.rows))
    twice = [tallied(made, [name] * 10, Tally.of(0, 1)).dump()] * 2
    assert [len(one["shown"]) for one in twice] == [NUM_SHOWN] * 2 and len(Tally.joined(twice).shown) == NUM_SHOWN
