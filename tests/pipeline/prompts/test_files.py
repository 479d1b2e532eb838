"""A file of prompts is read as what it is: text stays text, lines end at CR and LF alone, other files are refused."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.base.errors import DataError
from pipeline.prompts.read import read_prompts


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.txt.gz", "a.CSV", "a.yaml", "a.md"])
def test_other_files_are_refused_and_what_is_read_is_named(tmp_path, name):
    (tmp_path / name).write_text("prompt,weight\na red bag,1\n")
    with pytest.raises(DataError, match=r"are not read from \.\w+ files; give a text file \(\.txt\).*\.jsonl or \.par"):
        read_prompts(str(tmp_path / name))


@pytest.mark.parametrize("name", ["prompts", "a.txt", "a.TXT", "a.list", "of.2024/prompts"])
def test_text_has_the_suffix_of_text_or_none(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("a red bag, 1\n")
    assert read_prompts(str(tmp_path / name))["prompt"].to_pylist() == ["a red bag, 1"]


def test_tables_are_known_in_capitals_too(tmp_path):
    (tmp_path / "a.JSONL").write_text('{"prompt": "a red bag"}\n')
    pq.write_table(pa.table({"prompt": ["a red bag"]}), tmp_path / "a.PARQUET")
    for name in ("a.JSONL", "a.PARQUET"):
        assert read_prompts(str(tmp_path / name))["prompt"].to_pylist() == ["a red bag"]


def test_lines_end_at_cr_lf_and_both_alone(tmp_path):
    """U+2028, U+0085, VT and FF stand in texts that people copy from pages and tables."""
    inside = [f"a {number}{sign}b" for number, sign in enumerate("\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e")]
    text = "\r".join(inside[:3]) + "\r\n" + "\n".join(inside[3:]) + "\n"
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_prompts(str(tmp_path / "a.txt"))["prompt"].to_pylist() == inside


def test_texts_that_look_like_something_else_stay_texts(tmp_path):
    texts = ["2024-01-01", "2024-01-01T00:00:00Z", "1.50", "true", "null", "a\u2028b"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"prompt": text, "date": text}) for text in texts))
    assert read_prompts(str(tmp_path / "a.jsonl"))["prompt"].to_pylist() == texts


def test_keys_beside_the_known_ones_may_hold_anything(tmp_path):
    rows = ['{"prompt": "a", "id": 1}', '{"prompt": "b", "id": "x"}', '{"prompt": "c", "class_ids": [1.0, 2]}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    assert read_prompts(str(tmp_path / "a.jsonl")).to_pylist()[2] == {"prompt": "c", "weight": 1.0, "class_ids": [1, 2]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": 5}', "line 4: prompt is 5; it must be text"),
        ('{"prompt": ["a"]}', "line 4: prompt is ['a']; it must be text"),
        ('{"prompt": true}', "line 4: prompt is True; it must be text"),
        ('{"prompt": "\\ud800"}', "line 4: prompt is '\\ud800'; it must be text"),
        ('{"prompt": "a", "weight": "2"}', "line 4: weight is '2'; it must be a number"),
        ('{"prompt": "a", "weight": true}', "line 4: weight is True; it must be a number"),
        ('{"prompt": "a", "class_ids": 3}', "line 4: class_ids is 3; it must be a list of whole numbers"),
        ('{"prompt": "a", "class_ids": ["bag"]}', "line 4: class_ids is ['bag']; it must be a list of whole numbers"),
        ('{"prompt": "a", "class_ids": [1.5]}', "line 4: class_ids is [1.5]; it must be a list of whole numbers"),
        ('{"prompt": "a", "class_ids": [9000000000]}', "line 4: class_ids is [9000000000]; it must be a list"),
        ('{"prompt": "a", "class_ids": [1, null]}', "class_ids of row 3 holds an empty value"),
        ('["a"]', "line 4: holds ['a']; a line is such as {\"prompt\": "),
        ("a red bag", "line 4: not JSON"),
    ],
)
def test_what_is_wrong_in_a_line_is_told_with_its_number(tmp_path, row, message):
    rows = ['{"prompt": "' + "a" * 2**21 + '"}', "", '{"prompt": "b"}', row]  # more than a block of Arrow's
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    with pytest.raises(DataError) as error:
        read_prompts(str(tmp_path / "a.jsonl"))
    assert message in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": pa.array([1, 2])}, "the column `prompt` holds int64; it must be text"),
        ({"prompt": pa.array([["a"], ["b"]])}, "the column `prompt` holds list<element: string>; it must be text"),
        ({"prompt": pa.array([0, 1], pa.timestamp("us"))}, r"the column `prompt` holds timestamp\[us\]"),
        ({"weight": pa.array(["1", "2"])}, "the column `weight` holds string; it must be a number"),
        ({"weight": pa.array([True, True])}, "the column `weight` holds bool; it must be a number"),
        ({"class_ids": pa.array([1, 2])}, "the column `class_ids` holds int64; it must be a list of whole numbers"),
        ({"class_ids": pa.array([["bag"], []])}, "the column `class_ids` holds list<element: string>"),
        ({"class_ids": pa.array([[1], [None]])}, "class_ids of row 2 holds an empty value"),
    ],
)
def test_a_column_of_another_type_is_refused(tmp_path, columns, message):
    pq.write_table(pa.table({"prompt": pa.array(["a", "b"]), **columns}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        read_prompts(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "b"], pa.large_string()),
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array([b"a", b"b"]),
    ],
)
def test_text_has_many_types(tmp_path, column):
    columns: dict[str, Any] = {"prompt": column, "weight": [1, 2], "class_ids": pa.array([[1], None])}
    pq.write_table(pa.table({**columns, "more": [{"prompt": 1}] * 2}), tmp_path / "a.parquet")
    assert read_prompts(str(tmp_path / "a.parquet")).to_pylist() == [
        {"prompt": "a", "weight": 1.0, "class_ids": [1]},
        {"prompt": "b", "weight": 2.0, "class_ids": None},
    ]


def test_a_line_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("a red bag\na café\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.txt: cannot read prompts, line 2 is not UTF-8; save it as UTF-8"):
        read_prompts(str(tmp_path / "a.txt"))


def test_no_thread_of_arrow_outlives_the_reading(tmp_path, monkeypatch):
    """Beside torch such a thread ends a process with "terminate called" and exit code 134, now and then."""
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n')
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "a.parquet")
    read, options = pq.ParquetFile.read, pa.json.ReadOptions
    seen = []

    def watched(call: Any) -> Any:
        def calling(*arguments: Any, **keys: Any) -> Any:
            seen.append(keys["use_threads"])
            return call(*arguments, **keys)

        return calling

    monkeypatch.setattr(pq.ParquetFile, "read", watched(read))
    monkeypatch.setattr(pa.json, "ReadOptions", watched(options))
    for name in ("a.jsonl", "a.parquet"):
        assert read_prompts(str(tmp_path / name)).num_rows == 1
    assert seen == [False, False]
