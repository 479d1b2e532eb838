from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.pages.gallery_files import as_json, packed, script, unscript, write_content
from tests.pipeline.pages.gallery_sets import EVIL


def test_a_script_holds_bytes_and_nothing_of_a_text_is_part_of_it(tmp_path):
    size = write_content(str(tmp_path), "rows/3", as_json({"prompt": [EVIL]}))
    text = (tmp_path / "rows/3.js").read_bytes()
    assert len(text) == size and text.startswith(b'gallery.put("rows/3","') and text.endswith(b'")')
    assert text.isascii() and not set(b"<>&\\'") & set(text)
    assert json.loads(unscript(text)) == {"prompt": [EVIL]}


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError):
        as_json([float("nan")])


def test_a_header_says_what_stands_behind_it():
    content = packed({"sizes": [2, 3]}, [b"ab", b"cde"])
    length = int(np.frombuffer(content[:4], "<u4")[0])
    assert json.loads(content[4 : 4 + length]) == {"sizes": [2, 3]} and content[4 + length :] == b"abcde"
    assert unscript(script("key", content, level=1)) == content
