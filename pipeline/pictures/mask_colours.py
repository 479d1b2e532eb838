"""Masks in colours: each colour is the class that it is written down for, exactly; never the nearest."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from PIL import Image

from models.labels import LabelSpace
from pipeline.base.errors import MaskError
from pipeline.pictures.codec import bits_of, decode_mask, open_mask

MaskKind = Literal["auto", "ids", "colours"]
"""What the pixels of masks are: class ids, or colours; "auto" takes colours where a picture has three channels."""
TRANSPARENT = "transparent"
MAX_NAMED = 12
SMOOTHED = 64
"""More unknown colours than this are no classes: pictures have them that were scaled or smoothed."""
NAME_OF_COLOUR = re.compile(r"#?([0-9a-fA-F]{6}(?:[0-9a-fA-F]{2})?)|(\d{1,3}),\s*(\d{1,3}),\s*(\d{1,3})")


class ColourError(MaskError):
    """A mask with colours that are no class's; `counts` is their pixels by name."""

    def __init__(self, where: str, counts: Mapping[str, int], colours: Colours) -> None:
        self.where, self.counts, self.colours = where, Counter(counts), colours
        super().__init__(f"{where}: {colours.told(counts)}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.where, self.counts, self.colours)


@dataclass(frozen=True)
class Colours:
    """Which class each colour of a mask is.

    Attributes:
        ids: colour, as "#rrggbb", "#rrggbbaa" of half transparent ones, or "transparent", -> class id or the ignore
            index.
        names: of the classes, by id, for messages.
        kind: what the pixels of masks are.
    """

    ids: Mapping[str, int] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    kind: MaskKind = "auto"

    @classmethod
    def of(cls, labels: LabelSpace, stated: bool, others: Mapping[str, int], kind: MaskKind = "auto") -> Colours:
        """Those of a label space's palette, where it is `stated` rather than made up, and `others` before them. A
        colour that two classes have is none's.

        Raises:
            ValueError: a name that is no colour.
        """
        palette = [name_of(colour) for colour in labels.palette] if stated else []
        own = {name: class_id for class_id, name in enumerate(palette) if palette.count(name) == 1}
        return cls({**own, **{checked_colour(name): value for name, value in others.items()}}, labels.classes, kind)

    def decode(self, encoded: bytes, where: str) -> np.ndarray:
        """Decodes a mask of either kind to (H, W) uint8 or uint16 class ids; a palette picture is read as its indices.

        Raises:
            DataError: undecodable or cut short; `where` is named.
            ColourError: colours that are no class's: all of them, with their pixels.
            MaskError: as `codec.decode_mask`, or a palette whose colours and whose indices are different classes.
        """
        picture = open_mask(encoded, where)
        has_channels = picture.mode in ("RGB", "RGBA", "LA", "PA", "CMYK")
        if self.kind == "colours" or (self.kind == "auto" and has_channels):
            if bits_of(picture, encoded) > 8:
                raise MaskError(f"{where}: colours of 16 bits a channel; save the mask with 8")
            return self._ids_of(picture, where)
        if has_channels:
            return _one_channel(picture, where)
        ids = decode_mask(encoded, where)
        if self.kind == "auto" and picture.mode == "P":
            self._refuse_two_meanings(picture, where)
        return ids

    def told(self, counts: Mapping[str, int]) -> str:
        """What is said of colours that are no class's, by their pixels."""
        most = Counter(counts).most_common(MAX_NAMED)
        listed = ", ".join(f"{name} ({num:,} pixels{self._near(name)})" for name, num in most)
        more = f" and {len(counts) - len(most):,} more" if len(counts) > len(most) else ""
        if len(counts) > SMOOTHED:
            return (
                f"there are {len(counts):,} colours that are no class's, such as {listed}: so many come from "
                "scaling, smoothing or a lossy format; take masks from before that"
            )
        example = " ".join(f"'{name}' {number}" for number, (name, _) in enumerate(most[:3]))
        if all(name[1:3] == name[3:5] == name[5:] for name in counts):  # "transparent" is none
            more += "; if these greys are class ids that were saved with three channels, say --mask-kind ids"
        return (
            f"there are colours that are no class's: {listed}{more}. Write them down: a colour for each class as "
            "`palette` in the file of `labels` ([R, G, B], in the order of `classes`), or single ones with their class "
            f"ids, such as --mask-colours {example} (the ignore index for what nobody knows)"
        )

    def _near(self, name: str) -> str:
        if name == TRANSPARENT:
            return ""
        known = [one for one in self.ids if one != TRANSPARENT]
        if not known:
            return ""
        nearest = min(known, key=lambda one: sum((a - b) ** 2 for a, b in zip(_rgb(one), _rgb(name), strict=True)))
        class_id = self.ids[nearest]
        called = self.names[class_id] if class_id < len(self.names) else str(class_id)
        return f", nearest is {called} {nearest}"

    def _ids_of(self, picture: Image.Image, where: str) -> np.ndarray:
        codes = _codes(picture)
        known, class_ids = self._table
        places = np.minimum(np.searchsorted(known, codes), max(len(known) - 1, 0))
        wrong = known[places] != codes if len(known) else np.ones(codes.shape, bool)
        if wrong.any():
            values, counts = np.unique(codes[wrong], return_counts=True)
            raise ColourError(where, {_named(int(code)): int(n) for code, n in zip(values, counts, strict=True)}, self)
        return class_ids[places]

    def _refuse_two_meanings(self, picture: Image.Image, where: str) -> None:
        """Raises MaskError where colours of a palette picture are written down for other classes than its indices;
        those that are no class's, such as that of VOC's border, say nothing."""
        palette = np.array(picture.getpalette("RGB"), np.int64).reshape(-1, 3)
        counted: Any = picture.getcolors() or []
        used = [int(index) for _, index in counted if index < len(palette)]
        meant = [(index, self.ids[name]) for index in used if (name := name_of(palette[index])) in self.ids]
        if wrong := [(index, class_id) for index, class_id in meant if index != class_id]:
            index, class_id = wrong[0]
            raise MaskError(
                f"{where}: index {index} of its palette has the colour {name_of(palette[index])} of class {class_id}; "
                "say which is meant: --mask-kind ids (the indices) or --mask-kind colours"
            )

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """The codes of all colours, ascending, and their class ids."""
        found = sorted((0 if name == TRANSPARENT else _code(name), value) for name, value in self.ids.items())
        ids = [value for _, value in found]
        dtype = np.uint16 if max(ids, default=0) > 255 else np.uint8
        return np.array([code for code, _ in found], np.uint32), np.array(ids, dtype)


def checked_colour(name: str) -> str:
    """A colour as users write it, "#rrggbb", "#rrggbbaa", "r,g,b" or "transparent" -> as `Colours` has it.

    Raises:
        ValueError: none of these.
    """
    if name.strip().lower() == TRANSPARENT:
        return TRANSPARENT
    found = NAME_OF_COLOUR.fullmatch(name.strip())
    if found and found[1]:
        return _named(_code(f"#{found[1].lower()}"))
    if found and all(int(one) <= 255 for one in found.groups()[1:]):
        return name_of([int(one) for one in found.groups()[1:]])
    raise ValueError(f"{name!r} is no colour; write '#ff0000', '255,0,0', '#ff000080' (half of it) or transparent")


def name_of(colour: Iterable[int]) -> str:
    """(R, G, B) -> "#rrggbb"."""
    return "#" + bytes(int(value) for value in colour).hex()


def _rgb(name: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(name[1:7]))


def _code(name: str) -> int:
    return int(f"{name[1:]:f<8}", 16)


def _named(code: int) -> str:
    if not code & 255:
        return TRANSPARENT
    return f"#{code:08x}".removesuffix("ff") if code & 255 == 255 else f"#{code:08x}"


def _codes(picture: Image.Image) -> np.ndarray:
    """(H, W) uint32: red, green, blue and opacity; 0 where a pixel is transparent."""
    channels = np.array(picture.convert("RGBA"), np.uint32)
    codes: np.ndarray = channels[..., 0] << 24 | channels[..., 1] << 16 | channels[..., 2] << 8 | channels[..., 3]
    return np.where(channels[..., 3] == 0, np.uint32(0), codes)


def _one_channel(picture: Image.Image, where: str) -> np.ndarray:
    channels = np.array(picture.convert("RGB"))
    if (channels != channels[..., :1]).any():
        raise MaskError(f"{where}: --mask-kind ids was said, but its channels differ: it holds colours")
    return channels[..., 0].copy()
