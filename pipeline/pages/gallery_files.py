"""The files of a gallery that its page reads: bytes in a script, because a page that is opened from disk may load
scripts and pictures, and nothing else.

A file says `gallery.put(KEY, BASE64)`: its own name without ".js", and its content, compressed (zlib). Whatever stands
in a prompt is thereby never part of a script.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.storage.publish import write_bytes


def write_content(folder: str, key: str, content: bytes, level: int = 6) -> int:
    """Writes `<folder>/<key>.js`, whole or not at all; returns its size. `level` is of the compression."""
    encoded = script(key, content, level)
    write_bytes(f"{folder}/{key}.js", encoded)
    return len(encoded)


def script(key: str, content: bytes, level: int = 6) -> bytes:
    """The text of a file."""
    return b'gallery.put("%s","%s")' % (key.encode(), base64.b64encode(zlib.compress(content, level)))


def unscript(text: bytes) -> bytes:
    """The inverse of `script`."""
    return zlib.decompress(base64.b64decode(text.rsplit(b'"', 2)[1]))


def as_json(value: Any) -> bytes:
    """JSON without spaces; ValueError for numbers that are none."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def packed(header: Any, blobs: Sequence[bytes]) -> bytes:
    """A header and bytes behind it: the header's length (uint32, little-endian), its JSON, the blobs."""
    text = as_json(header)
    return b"".join([np.uint32(len(text)).astype("<u4").tobytes(), text, *blobs])
