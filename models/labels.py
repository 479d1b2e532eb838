"""LabelSpace: what the numbers in a mask mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

Uncertain = Literal["background", "ignore"]
Zero = Literal["background", "other"]
FOLDER = Path(__file__).parent / "label_spaces"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


@dataclass(frozen=True)
class LabelSpace:
    """Names, colours and codes of the classes of one data set.

    A mask holds class ids. Id 0 is the background (or "other") and has a channel of its own in every network's output;
    `ignore_index` marks pixels without a known class: it is never a class, never trained on and never counted.

    Attributes:
        name: short name, e.g. "voc".
        classes: names of ids 0, 1, ... in order; `classes[0]` is the background.
        palette: one (R, G, B) per class, 0 to 255: what it is drawn in, and in masks of colours.
        num_bits: bit planes of the annotation VAE's input. The reference uses ceil(log2(K)) for its K foreground
            classes, which is one too few when K is a power of two; custom label spaces use `bit_length(K)`.
        ignore_index: the id of pixels without a class.
        uncertain: what a generated pixel becomes whose top probability is under the threshold: "background" (id 0,
            as in the paper) or "ignore" (`ignore_index`, so that a trainer skips it).
        zero: what id 0 is to a segmenter: "background", a class that it learns, or "other", what has no class and is
            skipped as `ignore_index` is (ADE20K, Cityscapes; `reduce_zero_label` of MMSegmentation).
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    num_bits: int
    ignore_index: int = 255
    uncertain: Uncertain = "background"
    zero: Zero = "background"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or any(type(n) is not int for n in (self.num_bits, self.ignore_index)):
            raise ValueError(
                f"label space {self.name!r}: name must be text, num_bits and ignore_index whole numbers, got "
                f"{self.num_bits!r} and {self.ignore_index!r}"
            )
        if not 0 <= self.ignore_index <= 65535:
            raise ValueError(f"label space {self.name!r}: ignore_index must fit 16 bits, got {self.ignore_index}")
        if not all(0 <= value <= 255 for colour in self.palette for value in colour):
            raise ValueError(f"label space {self.name!r}: colours are [R, G, B] from 0 to 255")
        if len(self.classes) < 2:
            raise ValueError(
                f"label space {self.name!r}: needs a background and at least one class, got {self.classes}"
            )
        if blank := [number for number, name in enumerate(self.classes) if not name.strip()]:
            raise ValueError(f"label space {self.name!r}: class {blank[0]} has no name")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"label space {self.name!r}: class names must be unique, got {self.classes}")
        if len(self.palette) != len(self.classes):
            raise ValueError(
                f"label space {self.name!r}: {len(self.classes)} classes but {len(self.palette)} colours in the palette"
            )
        if self.num_classes >= 1 << self.num_bits:
            raise ValueError(
                f"label space {self.name!r}: {self.num_bits} bits cannot tell {self.num_classes} classes apart; "
                f"use num_bits={self.num_classes.bit_length()}"
            )
        if self.ignore_index <= self.num_classes:
            raise ValueError(f"label space {self.name!r}: ignore_index {self.ignore_index} is the id of a class")
        if self.uncertain not in ("background", "ignore"):
            raise ValueError(f"label space {self.name!r}: uncertain must be 'background' or 'ignore'")
        if self.zero not in ("background", "other"):
            raise ValueError(f"label space {self.name!r}: zero must be 'background' or 'other'")

    @classmethod
    def custom(
        cls,
        name: str,
        foreground: tuple[str, ...],
        uncertain: Uncertain = "background",
    ) -> LabelSpace:
        """A label space with enough bits for `foreground`, ids 1, 2, ... in order, in VOC's colours."""
        classes = ("background", *foreground)
        return cls(
            name=name,
            classes=classes,
            palette=voc_palette(len(classes)),
            num_bits=len(foreground).bit_length(),
            ignore_index=255 if len(classes) <= 255 else 65535,
            uncertain=uncertain,
        )

    @classmethod
    def named(cls, source: str | Path, read: Callable[[str], Any] = yaml.safe_load) -> LabelSpace:
        """One of `NAMES`, or the label space of a YAML file.

        A file has the keys `name`, `classes` (a list, background first) and, where wanted, `palette` (a list of [R, G,
        B]), `ignore_index`, `uncertain`, `zero` and `num_bits`. `read` takes its text apart, or raises
        ValueError.

        Raises:
            ValueError: no such file, or one that does not describe a label space.
        """
        path, fields = _fields_of(source, read)
        known = set(cls.__dataclass_fields__)
        if unknown := sorted(set(map(str, fields)) - known):
            raise ValueError(f"{path}: unknown keys {unknown}; known are {sorted(known)}")
        classes = fields["classes"]
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError(
                f"{path}: classes must be a list of names; quote words such as 'no' that YAML reads as others"
            )
        try:
            palette = tuple((int(r), int(g), int(b)) for r, g, b in fields.get("palette") or voc_palette(len(classes)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: palette must be a list of [R, G, B], one per class") from error
        defaults = {
            "num_bits": (len(classes) - 1).bit_length(),
            "ignore_index": 255 if len(classes) <= 255 else 65535,
        }
        return cls(**{**defaults, **fields, "classes": tuple(classes), "palette": palette})

    @classmethod
    def load(cls, path: str | Path) -> LabelSpace:
        """Reads what `save` wrote."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))

    @classmethod
    def from_json(cls, text: str) -> LabelSpace:
        """Reads the text that `save` wrote."""
        fields = json.loads(text)
        fields["classes"] = tuple(fields["classes"])
        fields["palette"] = tuple((int(r), int(g), int(b)) for r, g, b in fields["palette"])
        return cls(**fields)

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self.to_json())

    def to_json(self) -> str:
        """What `from_json` reads."""
        return json.dumps(asdict(self), indent=1)

    @property
    def num_classes(self) -> int:
        """Foreground classes K, without background; networks put out K + 1 channels."""
        return len(self.classes) - 1

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """uint8, or uint16 where ids do not fit."""
        return np.uint8 if self.ignore_index <= 255 else np.uint16

    def as_learned(self, mask: np.ndarray) -> np.ndarray:
        """A mask of any shape as segmenters have it: `ignore_index` where it is 0 and that is no class."""
        return np.where(mask == 0, mask.dtype.type(self.ignore_index), mask) if self.zero == "other" else mask

    def colours(self, mask: np.ndarray) -> np.ndarray:
        """(H, W) class ids -> (H, W, 3) uint8 picture; `ignore_index` is drawn white."""
        table = np.full((self.ignore_index + 1, 3), 255, np.uint8)
        table[: len(self.palette)] = self.palette
        return table[mask]


def states_palette(source: str | Path, read: Callable[[str], Any] = yaml.safe_load) -> bool:
    """Whether a label space, as `LabelSpace.named` takes it, has colours of its own, by which masks may be read.

    Raises:
        ValueError: no such file, or one that does not describe a label space.
    """
    return bool(_fields_of(source, read)[1].get("palette"))


def _fields_of(source: str | Path, read: Callable[[str], Any]) -> tuple[Path, dict[str, Any]]:
    """Where a label space lies, and what its file says."""
    path = FOLDER / f"{source}.yaml" if source in NAMES else Path(source).expanduser()
    try:
        fields = read(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise ValueError(
            f"label space {str(source)!r}: cannot read it ({why}); take one of {', '.join(NAMES)}, or a YAML file"
        ) from error
    if not isinstance(fields, dict) or not fields.keys() >= {"name", "classes"}:
        raise ValueError(f"{path}: a label space has the keys name and classes, background first")
    return path, fields


def voc_palette(num_colours: int) -> tuple[tuple[int, int, int], ...]:
    """The bit-interleaved colour map of Pascal VOC: bits 0, 1, 2 of an id go to the top bits of R, G, B, and so on."""
    colours = []
    for class_id in range(num_colours):
        rgb = [0, 0, 0]
        for shift in range(8):
            for channel in range(3):
                rgb[channel] |= ((class_id >> (3 * shift + channel)) & 1) << (7 - shift)
        colours.append((rgb[0], rgb[1], rgb[2]))
    return tuple(colours)


VOC = LabelSpace.named("voc")
GARMENTS = LabelSpace.named("garments")
