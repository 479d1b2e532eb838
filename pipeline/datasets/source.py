"""What a real data set is to the job that reads it: a list of entries, and a way to read one of them."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from models.labels import LabelSpace
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.log import log
from pipeline.pictures.codec import decode_mask
from pipeline.storage.files import filesystem_of, is_local, reaching, read_bytes

Value = TypeVar("Value")
Labelled = Literal["all", "some", "none"]
"""Which pictures of a data set have masks: all, and one without is an error; some, and the others are read without; or
none, and masks are not looked for."""

PICTURES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
RARER = frozenset({".avif", ".gif", ".jfif", ".jpe", ".pgm", ".ppm"})
"""Read too, but never part of what ids are made of: a key in COCO's form keeps these suffixes."""

ENTRY = pa.schema(
    [
        ("key", pa.string()),
        ("image", pa.string()),
        ("mask", pa.string()),
        ("captions", pa.list_(pa.string())),
    ]
)
"""A pair that can be read: its name in the data set, where its picture and its mask are (paths, or what else its source
knows them by; a mask of "" is none), and its captions. Ordered by `key`, which is unique."""


class PairError(DataError):
    """A pair that cannot be read; `reason` is one of `pipeline.tables.schema.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Found(NamedTuple):
    """A pair as its data set has it: the encoded picture, the mask (H, W) of class ids and `labels.ignore_index` or
    None, and the captions."""

    image: bytes
    mask: np.ndarray | None
    captions: list[str]


class Source(Protocol):
    """One split of a data set, as found on disk; small, so that every reading process gets a copy."""

    @property
    def labels(self) -> LabelSpace:
        """What the masks of `read` hold."""
        ...

    def entries(self) -> pa.Table:
        """All pairs, as ENTRY; pictures are not opened.

        Raises:
            DataError: what should be there is not; says what, where, and what the layout is.
        """
        ...

    def read(self, entry: Mapping[str, Any]) -> Found:
        """Reads the pair of a row of `entries`.

        Raises:
            PairError, MaskError, DataError: missing, not a mask of this data set, damaged.
        """
        ...


def read_files(
    entry: Mapping[str, Any],
    values: Mapping[int, int] | None = None,
    others: int | None = None,
    decode: Callable[[bytes, str], np.ndarray] = decode_mask,
) -> Found:
    """`Source.read` where `image` and `mask` are paths; `values` and `others` as in `remapped`."""
    image = read_file(entry["image"], "picture")
    if not entry["mask"]:
        return Found(image, None, list(entry["captions"]))
    mask = decode(read_file(entry["mask"], "mask"), entry["mask"])
    return Found(image, remapped(mask, values or {}, others), list(entry["captions"]))


def remapped(mask: np.ndarray, values: Mapping[int, int], others: int | None = None) -> np.ndarray:
    """(H, W) raw values -> (H, W) class ids of those that `values` names; all else becomes `others`, or stays where
    that is None."""
    if not values:
        return mask
    size = np.iinfo(mask.dtype).max + 1
    table = np.arange(size) if others is None else np.full(size, others)
    for value, class_id in values.items():
        if value < size:
            table[value] = class_id
    return table.astype(np.uint16)[mask]


def read_file(path: str, kind: str, *others: str) -> bytes:
    """The bytes of a file of a pair; a missing or unreadable one is a PairError. Where it is not there, `others` are
    tried."""
    if not path:
        raise PairError("missing_file", f"no {kind} belongs to this pair")
    for spelling in dict.fromkeys(spelling for one in (path, *others) for spelling in _spellings(one)):
        try:
            return read_bytes(spelling)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except (ConfigError, DataError) as error:  # the former of a name that reads as a URL
            raise PairError("undecodable_input", str(error)) from error
    raise PairError("missing_file", f"{path}: no such {kind}")


def _spellings(path: str) -> Iterator[str]:
    """A path; with its name in the forms that Unicode holds for the same; with the bytes that `as_text` replaced."""
    yield path
    if not path.isascii():
        folder, slash, name = path.rpartition("/")
        yield from (f"{folder}{slash}{unicodedata.normalize(form, name)}" for form in ("NFC", "NFD"))
    if "\\udc" in path:
        yield re.sub(r"\\udc([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), path)


def as_text(name: str) -> str:
    """A name as text that can be written everywhere: bytes of a file's name that are not UTF-8 as "\\udce9"."""
    return name.encode("utf-8", "backslashreplace").decode()


def in_all_forms(files: Mapping[str, Value]) -> dict[str, Value]:
    """What is known by name, by all forms of it that Unicode holds for the same: macOS writes "e" and an accent where
    others write "\u00e9"."""
    forms = {unicodedata.normalize(form, name): value for form in ("NFD", "NFC") for name, value in files.items()}
    return {**forms, **files}


def files_below(
    folder: str,
    *,
    suffixes: frozenset[str] = PICTURES,
    rarer: frozenset[str] = RARER,
    beside: frozenset[str] = frozenset(),
) -> dict[str, str]:
    """Paths of all files with one of `suffixes` in `folder` and its folders, by their name relative to it without the
    suffix, in order; hidden files are none. What is passed over is told, by suffix.

    Args:
        folder: a path or URL.
        suffixes: of files; two of one name are an error.
        rarer: suffixes of files that are taken too, but where another one has their name.
        beside: suffixes of files that belong there and are passed over without a word.

    Raises:
        DataError: no such folder, or two files of one name.
    """
    filesystem, inner = filesystem_of(folder)
    inner = inner.rstrip("/")
    with reaching(folder):
        # fsspec does not look into linked folders, which are common where data are shared.
        found = sorted(map(as_text, _walked(inner) if is_local(folder) else filesystem.find(inner)))
    if not found:
        raise DataError(f"{folder}: no such folder, or nothing in it; check `root` and `split`")
    prefix, start = folder.rstrip("/"), len(as_text(inner)) + 1
    names = [PurePosixPath(path[start:]) for path in found]
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    files: dict[str, str] = {}
    passed: Counter[str] = Counter()
    for name in sorted(names, key=lambda one: one.suffix.lower() in rarer):  # so that the usual suffixes go first
        suffix, key = name.suffix.lower(), without_suffix(str(name), suffixes | rarer)
        if suffix not in suffixes | rarer or (suffix in rarer and key in files):
            passed[suffix or "without a suffix"] += suffix not in beside
        elif key in files:
            raise DataError(f"{prefix}/{name} and {files[key]}: two files of one name; remove or rename one")
        else:
            files[key] = f"{prefix}/{name}"
    if not files:
        known = ", ".join(sorted(suffixes | rarer))
        raise DataError(f"{folder}: holds {len(found)} files, but none ends in {known}")
    if passed := +passed:
        listed = ", ".join(f"{num:,} {suffix}" for suffix, num in passed.most_common())
        log.warning("%s: %s files were passed over: %s", folder, f"{passed.total():,}", listed)
    return files


def _walked(folder: str) -> Iterator[str]:
    """Files in a folder, those in it, and linked ones; but no folder within itself, however it is linked."""
    real = os.path.realpath(folder)
    above = {folder: {real, *map(str, PurePosixPath(real).parents)}}
    for place, inner, names in os.walk(folder, followlinks=True):
        way = above.pop(place)
        reals = {name: os.path.realpath(f"{place}/{name}") for name in inner}
        inner[:] = [name for name in inner if reals[name] not in way]
        above |= {f"{place}/{name}": way | {reals[name]} for name in inner}
        yield from (f"{place}/{name}" for name in names)


def without_suffix(name: str, suffixes: frozenset[str] = PICTURES | {".mat"}) -> str:
    """The name of a picture without its format; other dots are part of the name."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in suffixes else name


def read_lines(path: str, needs: str) -> list[str]:
    """The lines of a text file without the space around them, each once, in their order, no empty ones; `needs` says
    what the file is for.

    Raises:
        DataError: no such file, or one that is not UTF-8.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: missing; {needs}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start + 1}); save it as UTF-8") from error
    return list(dict.fromkeys(stripped for line in re.split(r"[\r\n]", text) if (stripped := line.strip())))


def read_json(path: str, needs: str) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: no such file, or no JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: missing; {needs}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); fetch or write it again") from error


def read_captions(path: str) -> dict[str, list[str]]:
    """Captions of a JSON file `{name: text or list of texts}`, by name without its suffix; none where `path` is "".

    Raises:
        DataError: no such file, or another form.
    """
    if not path:
        return {}
    found = read_json(path, "it should hold the captions")
    if not isinstance(found, dict):
        raise DataError(f'{path}: captions are {{"name of picture": "text", ...}}, found a {type(found).__name__}')
    captions = {name: list(_texts(texts, path)) for name, texts in found.items()}
    rarer = {key: texts for name, texts in captions.items() if (key := without_suffix(name, RARER)) != name}
    return in_all_forms({**rarer, **{without_suffix(name): texts for name, texts in captions.items()}})


def entry_table(rows: Iterable[tuple[str, str, str, Sequence[str]]]) -> pa.Table:
    """(key, image, mask, captions) -> ENTRY, ordered by key."""
    texts = ((*map(as_text, row[:3]), [as_text(text) for text in row[3]]) for row in rows)
    columns = list(zip(*sorted(texts), strict=True)) or [()] * len(ENTRY)
    return pa.table([pa.array(values, kind.type) for values, kind in zip(columns, ENTRY, strict=True)], schema=ENTRY)


def _texts(value: Any, path: str) -> Iterator[str]:
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str):
            raise DataError(f"{path}: a caption is a text, found {text!r}")
        if text.strip():
            yield text.strip()
