"""Built-in scenes: real photographs of garments, recoloured and laid on crops of real photographs, with exact masks.

They need no download, so that the demo, the tests and the benchmarks run anywhere. They are composites and should be
called so. Garments and photographs of the splits are disjoint; `builtin_assets/NOTICE.md` names sources and licences.

Version 2 has more photographs than version 1, the same garments, and the photograph in the key of each pair: pictures
on one photograph are not independent, so that a figure's spread is over photographs (`pipeline.evaluation.units`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from scipy import ndimage

from models.labels import GARMENTS, LabelSpace
from pipeline.base.errors import DataError
from pipeline.datasets.source import ENTRY, Found, Labelled
from pipeline.pictures.codec import encode_image

SPLITS = ("train", "validation", "test")
VERSIONS = (1, 2)
ASSETS = Path(__file__).parent / "builtin_assets"
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 35),
    "green": (40, 160, 60),
    "blue": (45, 85, 215),
    "yellow": (245, 215, 45),
    "purple": (135, 50, 175),
    "orange": (250, 130, 20),
    "white": (245, 245, 245),
    "black": (48, 48, 52),
    "brown": (125, 75, 40),
    "pink": (250, 140, 185),
}
NUM_GARMENTS_ODDS = (0.4, 0.4, 0.2)  # one, two, three
MAX_ROTATION_DEGREES = 12.0
MIN_VISIBLE = 0.6  # of a garment's own area; less and nobody could name what lies below
MIN_VISIBLE_PX = 60  # at 64 x 64; grows with the area of the scene
MIN_COLOUR_DISTANCE = 70.0  # RGB units between a garment's colour and the mean of its photograph
OVERSAMPLING = 2  # garments are drawn at this multiple and averaged, which makes their edges smooth
GARMENT_MARGIN_PX = 4  # empty frame around a 28 x 28 picture, so that resampling never meets its border
KEEPS_HOLES = frozenset(GARMENTS.classes.index(name) for name in ("trousers", "sandal", "bag"))
MAX_FILLED_HOLE_PX = 10  # in 28 x 28: larger holes in KEEPS_HOLES show what lies behind, smaller ones are dark cloth


@dataclass(frozen=True)
class Scene:
    """One composed picture.

    Attributes:
        image: (size_px, size_px, 3) uint8 RGB.
        mask: (size_px, size_px) uint8 class ids of GARMENTS.
        prompt: names every garment, its colour, and the surface.
    """

    image: np.ndarray
    mask: np.ndarray
    prompt: str


@dataclass(frozen=True)
class _Garment:
    """One garment as it lies in a scene; `alpha` and `shade` are (size_px, size_px) float32 in [0, 1]."""

    class_id: int
    colour: str
    alpha: np.ndarray
    shade: np.ndarray


class BuiltinScenes:
    """Index -> Scene: a pure function of all arguments and the index, so that any scene can be made again alone.

    Classes come equally often, or fall evenly to `rarest` of the first for the last one. Captions leave out a share
    `unnamed` of the garments, as people do.
    """

    def __init__(
        self, split: str, seed: int = 0, size_px: int = 64, version: int = 1, rarest: float = 1.0, unnamed: float = 0.0
    ) -> None:
        if split not in SPLITS:
            raise DataError(f"built-in scenes have no split {split!r}; choose one of {', '.join(SPLITS)}")
        if size_px < 32:
            raise DataError(f"built-in scenes need size_px >= 32 to show their garments, got {size_px}")
        if seed < 0:
            raise DataError(f"built-in scenes need a seed >= 0, got {seed}")
        if version not in VERSIONS:
            raise DataError(f"built-in scenes have no version {version}; choose one of {', '.join(map(str, VERSIONS))}")
        self.split = split
        self.seed = seed
        self.size_px = size_px
        self.version = version
        self.rarest = rarest
        self.unnamed = unnamed

    @property
    def num_garments(self) -> int:
        """Garment pictures of this split, of all classes."""
        return sum(len(pictures) for pictures in _garment_pictures(self.split).values())

    def key(self, index: int) -> str:
        """What the pair is called in its data set: "123" in version 1; "000123-grass" in version 2, which
        `pipeline.evaluation.units` reads."""
        if self.version == 1:
            return str(index)
        return f"{index:06}-{Path(self._row(self._rng(index))['file']).stem}"

    def __call__(self, index: int) -> Scene:
        rng = self._rng(index)
        image, surface = self._background(rng)
        distances = np.linalg.norm(np.array(list(COLOURS.values())) - image.mean((0, 1)), axis=1)
        colours = [name for name, far in zip(COLOURS, distances >= MIN_COLOUR_DISTANCE, strict=True) if far]
        garments, mask = self._place(rng, colours)
        for garment in garments:
            tint = np.array(COLOURS[garment.colour]) * rng.uniform(0.95, 1.05) * rng.uniform(0.97, 1.03, 3)
            covered = garment.alpha > 0
            shade, alpha = garment.shade[covered, None], garment.alpha[covered, None]
            # A little of the light's own white in the brightest folds, else dark and saturated colours look flat.
            lit = tint * (0.5 + 0.55 * shade) + 26 * shade**3
            image[covered] += alpha * (lit - image[covered])
        if self.unnamed:  # by numbers of their own, so that the picture stays the same
            told = np.random.default_rng([self.seed, SPLITS.index(self.split), index, 1]).random(len(garments))
            garments = [one for one, number in zip(garments, told, strict=True) if number >= self.unnamed]
        return Scene(np.clip(np.rint(image), 0, 255).astype(np.uint8), mask, _prompt(garments, surface))

    def _rng(self, index: int) -> np.random.Generator:
        if index < 0:
            raise DataError(f"built-in scenes are numbered from 0, got index {index}")
        return np.random.default_rng([self.seed, SPLITS.index(self.split), index])

    def _row(self, rng: np.random.Generator) -> dict[str, Any]:
        """The photograph of a scene; always the first thing that is drawn, so that `key` needs no pixels."""
        rows = photograph_rows(self.split, self.version)
        return rows[rng.integers(len(rows))]

    def _background(self, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """A random crop of a photograph, (size_px, size_px, 3) float32 in [0, 255], and the phrase for its surface."""
        row = self._row(rng)
        photograph = _photograph(row["file"])
        side = min(photograph.size) * rng.uniform(0.45, 1.0)
        left = rng.uniform(0, photograph.width - side)
        upper = rng.uniform(0, photograph.height - side)
        crop = photograph.resize(
            (self.size_px, self.size_px), Image.Resampling.BICUBIC, box=(left, upper, left + side, upper + side)
        )
        pixels = np.asarray(crop, np.float32)
        return (pixels[:, ::-1] if rng.random() < 0.5 else pixels).copy(), row["surface"]

    def _place(self, rng: np.random.Generator, colours: list[str]) -> tuple[list[_Garment], np.ndarray]:
        """Draws garments, in drawing order, until all of them are visible; also their mask."""
        num_garments = int(rng.choice(len(NUM_GARMENTS_ODDS), p=NUM_GARMENTS_ODDS)) + 1
        # What lies there is drawn once: to draw it again on failure would favour the small garments that fit easily.
        if self.rarest == 1:
            class_ids = rng.integers(1, len(GARMENTS.classes), num_garments).tolist()
        else:
            odds = self.rarest ** np.linspace(0, 1, GARMENTS.num_classes)
            class_ids = (rng.choice(GARMENTS.num_classes, num_garments, p=odds / odds.sum()) + 1).tolist()
        numbers = [int(rng.integers(len(_garment_pictures(self.split)[class_id]))) for class_id in class_ids]
        chosen = rng.permutation(colours)[:num_garments].tolist()
        for attempt in range(200):
            low, high = (0.5, 0.75) if num_garments == 1 else (0.42, 0.6) if attempt < 20 else (0.38, 0.5)
            garments = [
                self._draw(rng, class_id, number, colour, rng.uniform(low, high))
                for class_id, number, colour in zip(class_ids, numbers, chosen, strict=True)
            ]
            owner = np.zeros((self.size_px, self.size_px), np.uint8)
            for number, garment in enumerate(garments, start=1):
                owner[garment.alpha >= 0.5] = number
            if all(self._is_visible(garment, owner == number) for number, garment in enumerate(garments, start=1)):
                return garments, np.array([0, *class_ids], np.uint8)[owner]
        raise AssertionError(f"no visible arrangement of classes {class_ids} in {attempt + 1} attempts")

    def _is_visible(self, garment: _Garment, visible: np.ndarray) -> bool:
        num_visible = np.count_nonzero(visible)
        enough_px = MIN_VISIBLE_PX * (self.size_px / 64) ** 2
        return bool(num_visible >= max(enough_px, MIN_VISIBLE * np.count_nonzero(garment.alpha >= 0.5)))

    def _draw(self, rng: np.random.Generator, class_id: int, number: int, colour: str, longest: float) -> _Garment:
        """Turns and places one garment picture; `longest` is its longer side over the scene's."""
        shade, alpha, (upper, left, height, width) = _cut_out(self.split, class_id, number)
        angle = np.deg2rad(rng.uniform(-MAX_ROTATION_DEGREES, MAX_ROTATION_DEGREES))
        cosine, sine = np.cos(angle), np.sin(angle)
        scale = longest * self.size_px / max(height, width)
        half_height = scale * (height * cosine + width * abs(sine)) / 2 + 1
        half_width = scale * (width * cosine + height * abs(sine)) / 2 + 1
        centre_y, centre_x = (
            rng.uniform(half, self.size_px - half) if 2 * half < self.size_px else self.size_px / 2
            for half in (half_height, half_width)
        )
        if rng.random() < 0.5:
            shade, alpha = (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for part in (shade, alpha))
            left = shade.width - left - width
        # Output pixel -> picture pixel, in PIL's order (a, b, c, d, e, f): x_in = a x + b y + c, y_in = d x + e y + f.
        step = 1 / (scale * OVERSAMPLING)
        a, b, d, e = step * cosine, step * sine, -step * sine, step * cosine
        # Only a window around the garment is drawn: resampling the whole scene would take most of the time.
        top, start = int(centre_y - half_height), int(centre_x - half_width)
        num_rows, num_columns = int(2 * half_height) + 2, int(2 * half_width) + 2
        x_out, y_out = (centre_x - start) * OVERSAMPLING, (centre_y - top) * OVERSAMPLING
        matrix = (a, b, left + width / 2 - a * x_out - b * y_out, d, e, upper + height / 2 - d * x_out - e * y_out)
        window = (num_columns * OVERSAMPLING, num_rows * OVERSAMPLING)
        drawn_shade, drawn_alpha = (
            np.asarray(part.transform(window, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC))
            for part in (shade, alpha)
        )
        # The upsampled silhouette is soft over about a picture pixel; steepen it, so that only `_average` blurs.
        sharp = np.clip((drawn_alpha - 0.5) * 3 + 0.5, 0, 1)
        rows = slice(max(top, 0), min(top + num_rows, self.size_px))
        columns = slice(max(start, 0), min(start + num_columns, self.size_px))
        inside = np.s_[rows.start - top : rows.stop - top, columns.start - start : columns.stop - start]
        placed = np.zeros((2, self.size_px, self.size_px), np.float32)
        placed[:, rows, columns] = _average(sharp)[inside], _average(np.clip(drawn_shade, 0, 1))[inside]
        return _Garment(class_id, colour, alpha=placed[0], shade=placed[1])


@dataclass(frozen=True)
class Builtin:
    """The first `num` scenes of a split, as a source of pairs."""

    split: str
    seed: int
    size_px: int
    num: int
    version: int = 1
    labelled: Labelled = "all"
    rarest: float = 1.0
    unnamed: float = 0.0

    @property
    def labels(self) -> LabelSpace:
        return GARMENTS

    def entries(self) -> pa.Table:
        keys = [self._scenes.key(index) for index in range(self.num)]
        masks = [""] * self.num if self.labelled == "none" else keys
        return pa.table({"key": keys, "image": keys, "mask": masks, "captions": [[]] * self.num}, schema=ENTRY)

    def read(self, entry: Mapping[str, Any]) -> Found:
        scene = self._scenes(int(entry["key"].partition("-")[0]))
        return Found(encode_image(scene.image), scene.mask if entry["mask"] else None, [scene.prompt])

    @cached_property
    def _scenes(self) -> BuiltinScenes:
        return BuiltinScenes(self.split, self.seed, self.size_px, self.version, self.rarest, self.unnamed)


@cache
def photograph_rows(split: str, version: int) -> tuple[dict[str, Any], ...]:
    """Of photographs.json: `file`, `split`, `surface` (the phrase that places something on it) and `versions`."""
    rows = json.loads((ASSETS / "photographs.json").read_text())
    return tuple(row for row in rows if row["split"] == split and version in row["versions"])


def _average(drawn: np.ndarray) -> np.ndarray:
    """(height * OVERSAMPLING, width * OVERSAMPLING) -> (height, width), the mean of each block."""
    # Strided sums, because `reshape(...).mean((1, 3))` is five times slower on arrays this small.
    rows = np.add.reduce([drawn[start::OVERSAMPLING] for start in range(OVERSAMPLING)])
    blocks: np.ndarray = np.add.reduce([rows[:, start::OVERSAMPLING] for start in range(OVERSAMPLING)])
    return blocks / np.float32(OVERSAMPLING**2)


@cache
def _garment_pictures(split: str) -> dict[int, np.ndarray]:
    """Class id -> (N, 28, 28) uint8 pictures on black."""
    with np.load(ASSETS / "garments.npz") as pack:
        of_split = pack["splits"] == SPLITS.index(split)
        pictures, class_ids = pack["pictures"][of_split], pack["class_ids"][of_split]
    return {class_id: pictures[class_ids == class_id] for class_id in range(1, len(GARMENTS.classes))}


@cache
def _photograph(file: str) -> Image.Image:
    """Decoded, RGB."""
    with Image.open(ASSETS / "photographs" / file) as picture:
        return picture.convert("RGB")


@cache
def _cut_out(split: str, class_id: int, number: int) -> tuple[Image.Image, Image.Image, tuple[int, int, int, int]]:
    """Shade and alpha of one garment, float pictures in [0, 1], and its box (upper, left, height, width)."""
    picture = np.pad(_garment_pictures(split)[class_id][number], GARMENT_MARGIN_PX).astype(np.float32)
    outline = picture > 24
    holes, num_holes = ndimage.label(ndimage.binary_fill_holes(outline) & ~outline)
    inside = outline.copy()
    for hole in range(1, num_holes + 1):
        if class_id not in KEEPS_HOLES or np.count_nonzero(holes == hole) <= MAX_FILLED_HOLE_PX:
            inside |= holes == hole
    core = ndimage.binary_erosion(inside)
    # A dim pixel on the rim is one that the garment covers in part: its brightness is its alpha, not its shade.
    alpha = np.where(core, 1.0, np.where(inside, np.clip(picture / 110, 0.6, 1.0), 0.0)).astype(np.float32)
    solid = core | (inside & (picture >= 110))
    if not solid.any():
        solid = inside
    nearest = ndimage.distance_transform_edt(~solid, return_distances=False, return_indices=True)
    grey = picture[tuple(nearest)]
    ordered = np.sort(picture[solid])
    low, high = ordered[int(0.03 * len(ordered))], ordered[int(0.97 * len(ordered))]
    # Stretch the folds to the full range, but leave plain cloth plain: noise is no shading.
    shade = np.clip((grey - high) / max(high - low, 90.0) + 1.0, 0, 1).astype(np.float32)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    box = (int(rows[0]), int(columns[0]), int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1)
    return Image.fromarray(shade), Image.fromarray(alpha), box


def _prompt(garments: list[_Garment], surface: str) -> str:
    names = [_name(garment) for garment in garments] or ["something"]
    if len(garments) == 2:
        return f"{names[0]} {_relation(*garments)} {names[1]} {surface}"
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{listed} {surface}"


def _name(garment: _Garment) -> str:
    """ "a red bag", "an orange boot", "blue trousers"."""
    noun = GARMENTS.classes[garment.class_id]
    article = "" if noun == "trousers" else "an " if garment.colour[0] in "aeiou" else "a "
    return f"{article}{garment.colour} {noun}"


def _relation(first: _Garment, second: _Garment) -> str:
    """Where the first lies as seen from the second, by the centres of their silhouettes; "and" if they coincide."""
    centres = [np.argwhere(garment.alpha >= 0.5).mean(0) for garment in (first, second)]
    down, right = centres[0] - centres[1]
    if max(abs(down), abs(right)) < 0.1 * len(first.alpha):
        return "and"
    if abs(down) >= abs(right):
        return "below" if down > 0 else "above"
    return "right of" if right > 0 else "left of"
