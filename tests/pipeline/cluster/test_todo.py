"""What is left of a plan is found a chunk at a time, and made a chunk at a time when it is needed."""

from __future__ import annotations

import pyarrow as pa
import pytest

from models.labels import GARMENTS
from pipeline.base.errors import DataError
from pipeline.cluster import todo
from pipeline.cluster.progress import Shared
from pipeline.cluster.todo import find_work, left_of_chunk, load_prompts
from pipeline.prompts.read import offsets_of, read_prompts, without_blank
from pipeline.tables.schema import ERROR
from pipeline.tables.shards import write_table

IDENTITY = {"run_seed": 0, "bundle_digest": "b", "sampler_settings": "{}"}


def fail(rows: pa.Table, folder: str) -> None:
    """Writes rows of a plan as errors, which count as done."""
    columns = {"pair_id": rows["pair_id"], "reason": ["prompt_too_long"] * rows.num_rows}
    nulls = {field.name: pa.nulls(rows.num_rows, field.type) for field in ERROR if field.name not in columns}
    write_table(pa.table({**columns, **nulls}).select(ERROR.names).cast(ERROR), f"{folder}/errors")


def made(work: todo.Work, shared: Shared) -> list[str]:
    """Sorted: chunks are planned side by side, and come in the order in which they are ready."""
    return sorted(row["pair_id"] for row in work.dataset(4, shared).take_all())


@pytest.mark.ray
def test_what_is_left_of_a_plan(tmp_path, monkeypatch, ray_session):
    monkeypatch.setattr(todo, "ROWS_PER_CHUNK", 20)
    monkeypatch.setattr(todo, "MAX_CHUNKS", 3)
    (tmp_path / "prompts.txt").write_text("a\n\nb\nc\n")
    source, folder = str(tmp_path / "prompts.txt"), str(tmp_path / "run")
    prompts = load_prompts(source, GARMENTS)
    assert prompts.num == 3
    found = without_blank(read_prompts(source))
    found = found.append_column(todo.OFFSET, pa.array(offsets_of(found["prompt"])))
    plan = left_of_chunk(found, pa.array([], pa.string()), 0, 110, IDENTITY)
    ids, shared = plan["pair_id"].to_pylist(), Shared.start()

    work = find_work(prompts, folder, num_pairs=110, retry_errors=False, **IDENTITY)
    assert (work.todo, work.later, work.chunks) == (110, 50, ((0, 20), (20, 40), (40, 60)))
    assert made(work, shared) == sorted(ids[:60]), "a graph makes so many that Ray can hold them"

    fail(plan.slice(0, 45), folder)
    work = find_work(prompts, folder, num_pairs=110, retry_errors=False, **IDENTITY)
    assert (work.todo, work.later, work.chunks) == (65, 10, ((40, 60), (60, 80), (80, 100)))
    assert made(work, shared) == sorted(ids[45:100])
    assert find_work(prompts, folder, num_pairs=110, retry_errors=True, **IDENTITY).todo == 110
    assert find_work(prompts, folder, num_pairs=30, retry_errors=False, **IDENTITY).todo == 0, "of a shorter plan"

    fail(plan.slice(45, 65), folder)
    assert find_work(prompts, folder, num_pairs=110, retry_errors=False, **IDENTITY).chunks == ()
    work = find_work(prompts, folder, num_pairs=1000, retry_errors=False, **{**IDENTITY, "run_seed": 1})
    assert work.todo == 1000, "of another seed"


@pytest.mark.ray
def test_a_plan_shorter_than_its_prompts_is_a_fair_part_of_them(tmp_path, ray_session):
    """A caption that occurs thrice is no reason to leave those out that occur once."""
    often, once = [f"often {n}" for n in range(100)], [f"once {n}" for n in range(700)]
    (tmp_path / "prompts.txt").write_text("\n".join([*often * 3, *once]))
    shares = []
    for drawn in (True, False):
        prompts = load_prompts(str(tmp_path / "prompts.txt"), GARMENTS, drawn=drawn)
        work = find_work(prompts, str(tmp_path), num_pairs=200, retry_errors=False, **IDENTITY)
        rows = work.dataset(4, Shared.start()).take_all()
        shares.append(sum(row["prompt"].startswith("once") for row in rows) / 200)
    assert shares[0] == pytest.approx(0.7, abs=0.08)
    assert shares[1] < 0.1, "as runs of earlier releases go on"


@pytest.mark.ray
def test_no_more_is_made_when_all_is_to_stop(tmp_path, ray_session):
    (tmp_path / "prompts.txt").write_text("a\n")
    prompts, shared = load_prompts(str(tmp_path / "prompts.txt"), GARMENTS), Shared.start()
    work = find_work(prompts, str(tmp_path), num_pairs=10**9, retry_errors=False, **IDENTITY)
    assert work.todo == 10**9 and work.todo - work.later == todo.MAX_CHUNKS * todo.ROWS_PER_CHUNK
    shared.stop()
    assert made(work, shared) == []


@pytest.mark.ray
def test_classes_that_the_bundle_does_not_have_are_told_with_the_prompt(tmp_path, ray_session):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a red bag", "class_ids": [99]}\n')
    with pytest.raises(DataError, match=r"prompts\.jsonl: prompt 'a red bag' asks for \[99\]; label space 'garments'"):
        load_prompts(str(tmp_path / "prompts.jsonl"), GARMENTS)
