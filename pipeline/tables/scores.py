"""Scores: what is said about pairs, in tables of their own that have a row for each pair.

A run of scores holds a folder for each kind of score, such as `<run>/plain`, which is made, resumed and made anew by
itself: a further kind touches no other one. `read_scores` brings them together. A score is null where it means nothing,
such as words for a pair without a prompt; `<kind>_by` says what a kind was made with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel
from scipy.stats import poisson

from pipeline.base.errors import ShardError
from pipeline.storage.files import read_bytes
from pipeline.tables.ids import canonical_json
from pipeline.tables.rows import read_shards
from pipeline.tables.schema import CATEGORY, PICTURE
from pipeline.tables.shards import list_shards

Kind = Literal["plain", "text", "judge", "nearest", "safety"]
COPIES = 0.001
"""Share of the real pairs that are as near to another one as what is called a copy."""
COVERAGE = "coverage.json"
CHANCE = 0.01
"""More copies than `COPIES` gives in so many sets are no chance."""

_F, _I = pa.float32(), pa.int32()
COLUMNS: Mapping[Kind, Mapping[str, pa.DataType]] = {
    "plain": {
        "sharpness": _F,
        "contrast": _F,
        "dark": _F,
        "regions": _I,
        "edge_contrast": _F,
        "unknown": _F,
        "classes_found": _F,
        "classes_unasked": _I,
        "blocked": pa.bool_(),
        "picture_hash": pa.int64(),
    },
    "text": {"clip_similarity": _F, "clip_perturbation": _F},
    "judge": {"agreement": _F, "agreement_held": _F, "loss": _F, "noisy": _F, "noise_map": PICTURE},
    "nearest": {
        "nearest_id": pa.string(),
        "nearest_distance": _F,
        "nearest_ratio": _F,
        "nearest_bits": _I,
        "rarity": _F,
    },
    "safety": {"unsafe": _F},
}
"""What each kind says of a pair; docs/curation.md tells how each is made.

plain: `sharpness` of the picture (mean squared Laplacian of grey values), `contrast` (their standard deviation, 0 to
0.5), `dark` (share of nearly black pixels), `regions` (connected parts of classes in the mask), `edge_contrast` (how
much the picture changes where the mask does, over how much a little beside), `unknown` (share of pixels without a
class), `classes_found` (share of the classes that the prompt names which the mask holds), `classes_unasked` (classes
that it holds beside them), `blocked` (whether words or classes are that were not wanted), `picture_hash` (64 bits,
equal in all but a few for pictures that look alike).

text: `clip_similarity` of picture and prompt (cosine), and `clip_perturbation`: how much a CLIP's surprise over the
mask's classes and what else a picture may show changes when the picture's parts are shuffled; little where it shows
nothing clearly (SDS).

judge: how a segmenter that learned from real pairs sees it. `agreement`: mean over the mask's classes of their IoU with
what it sees; `agreement_held` the same where it may answer the prompt's classes alone; `loss`: its mean cross-entropy;
`noisy`: share of pixels whose loss is above 1.25 times the mean one of their class in real pairs, and `noise_map` says
which (FreeMask, section 3.3).

nearest: the real pair it is most like, and `nearest_distance` to it (1 - cosine of embeddings); `nearest_ratio`: that
distance over the one from there to the next real pair, so that a copy is near 0; `nearest_bits` of the hashes that
differ; `rarity`: mean over its classes of the distance to the nearest real pair that holds the class.

safety: `unsafe`, how likely the picture is what nobody wants, from 0 to 1, to a network that was trained to find it."""
BETTER: Mapping[str, int] = {
    "sharpness": 1, "contrast": 1, "dark": -1, "regions": -1, "edge_contrast": 1, "unknown": -1, "classes_found": 1,
    "classes_unasked": -1, "clip_similarity": 1, "clip_perturbation": 1, "agreement": 1, "agreement_held": 1,
    "loss": -1, "noisy": -1, "nearest_distance": 1, "nearest_ratio": 1, "nearest_bits": 1, "rarity": -1,
    "unsafe": -1, "confidence_mean": 1, "guidance_difference": -1,
}  # fmt: skip
"""Score -> 1 where more of it is better, -1 where less is."""


def score_schema(kind: Kind) -> pa.Schema:
    """The table of a kind: `pair_id`, its scores, and what they were made with."""
    fields = [pa.field(name, type_) for name, type_ in COLUMNS[kind].items()]
    key = pa.field("pair_id", pa.string(), metadata={"required": "true"})
    return pa.schema([key, *fields, pa.field(f"{kind}_by", CATEGORY)])


def kind_of(score: str) -> Kind | None:
    """The kind that a score belongs to; None for what is none."""
    return next((kind for kind, columns in COLUMNS.items() if score in columns), None)


def read_scores(folder: str, scores: Sequence[str], ids: pa.ChunkedArray) -> dict[str, pa.ChunkedArray]:
    """Some scores of pairs, in their order; null where a kind has no row for one.

    Args:
        folder: of a run of scores.
        scores: names.
        ids: of the pairs.

    Raises:
        ShardError: a name that is no score, a kind that was not made yet, or a broken shard.
    """
    found: dict[str, pa.ChunkedArray] = {}
    for name in scores:
        if not (kind := kind_of(name)):
            raise ShardError(f"{name}: no score; there are {', '.join(sorted(BETTER))}")
        part = f"{folder.rstrip('/')}/{kind}"
        if not list_shards(part):
            raise ShardError(f"{folder} has no scores of the kind {kind} ({name}); make them: jobs.score")
        rows = read_shards([part], ["pair_id", name])
        found[name] = rows[name].take(pc.index_in(ids, rows["pair_id"].combine_chunks()))
    return found


def made_with(folder: str, kind: Kind) -> dict[str, Any]:
    """What a kind of score was made with; nothing where there is none."""
    part = f"{folder.rstrip('/')}/{kind}"
    if not list_shards(part):
        return {}
    return dict(json.loads(read_shards([part], [f"{kind}_by"])[f"{kind}_by"][0].as_py()))


def begun(folder: str, kind: Kind, facts: Mapping[str, Any]) -> dict[str, Any]:
    """`facts`, and where scores were begun with the same ones, the figures that these were made with besides: another
    device reckons them a little differently, and would not go on with them."""
    same = json.loads(canonical_json(facts))
    before = made_with(folder, kind)
    return before if same.items() <= before.items() else same


class Copies(NamedTuple):
    """Pairs that are copies of real ones.

    Attributes:
        rows: `pair_id`, `nearest_id` and `nearest_ratio` of each, the nearest first.
        num_pairs: that were looked at.
        chance: how likely as many are among so many real pairs that are no copies.
    """

    rows: pa.Table
    num_pairs: int
    chance: float

    @property
    def some(self) -> bool:
        """Whether the set holds copies, and not just what chance calls so."""
        return self.chance < CHANCE

    def __str__(self) -> str:
        found = f"{self.rows.num_rows:,} of {self.num_pairs:,} pairs"
        if not self.some:
            return f"no copies of real pairs ({found} are as near to one as one real pair in a thousand is)"
        return f"{found} are copies of real ones: nearer to one than one real pair in a thousand is"


def copies_in(folder: str, ids: Sequence[str] | None = None) -> Copies | None:
    """The copies that a run of scores found; None where it has no scores of the kind nearest.

    Args:
        folder: of the run.
        ids: of the pairs that count; None takes all. Scores stay of pairs that a selection does not keep any more.
    """
    made = made_with(folder, "nearest")
    if not made:
        return None
    rows = read_shards([f"{folder.rstrip('/')}/nearest"], ["pair_id", "nearest_id", "nearest_ratio"])
    if ids is not None:
        rows = rows.filter(pc.is_in(rows["pair_id"], pa.array(ids, pa.string())))
    near = rows.filter(pc.less(rows["nearest_ratio"], float(made["copy_ratio"]))).sort_by("nearest_ratio")
    return Copies(near, rows.num_rows, float(poisson.sf(near.num_rows - 1, COPIES * rows.num_rows)))


class Coverage(BaseModel):
    """What N generated pictures are to N real ones.

    A ball is around a picture and reaches to the fifth of its own set that is nearest to it.
    """

    pictures: int
    """N."""
    precision: float
    """Share of the generated ones that lie in the ball of a real one."""
    recall: float
    """Share of the real ones that lie in the ball of a generated one."""
    density: float
    """In how many balls of real ones a generated one lies, over five; above 1 where they crowd."""
    coverage: float
    """Share of the real ones in whose ball a generated one lies."""
    vendi: float
    """How many different pictures the generated set is worth, 1 to N."""
    vendi_real: float
    """And the real one."""


class CoverageFile(BaseModel):
    """`coverage.json` of a run of scores."""

    made_with: str
    """Canonical JSON of what it was made of."""
    found: Coverage
    """Of the scored pairs."""
    held_out: Coverage | None = None
    """Of as many real pictures that are no part of the real set, for comparison."""

    def __str__(self) -> str:
        one, real = self.found, self.held_out
        held_out = f"; held-out real ones {real.coverage:.0%} and {real.precision:.0%}" if real else ""
        return (
            f"{one.pictures:,} pictures cover {one.coverage:.0%} of as many real ones and {one.precision:.0%} of them "
            f"lie among real ones{held_out}. They are worth {one.vendi:.0f} different ones, the real ones "
            f"{one.vendi_real:.0f} (Vendi)"
        )


def read_coverage(folder: str) -> CoverageFile | None:
    """What a run of scores says of the set as a whole; None where it says nothing.

    Raises:
        ShardError: a damaged file.
    """
    path = f"{folder.rstrip('/')}/{COVERAGE}"
    try:
        return CoverageFile.model_validate_json(read_bytes(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ShardError(f"{path}: damaged; remove it and run jobs.score again") from error
