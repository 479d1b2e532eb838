"""Generation through Ray: planned ids, each once, whatever the order of starts; any pair can be made again alone."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.regenerate import RegenerateConfig
from jobs.regenerate import main as regenerate_job
from jobs.verify import VerifyConfig
from jobs.verify import main as verify_job
from models.reverse import SamplerSettings
from models.weights import WeightsError
from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError, DataError
from pipeline.generate import GenerateConfig, _in_former_turns, generate
from pipeline.pictures.codec import decode_image, encode_mask
from pipeline.prompts.read import read_prompts
from pipeline.refine import RefineConfig, refine
from pipeline.regenerate import compare, find_row, regenerate
from pipeline.stages.refine import Refine
from pipeline.tables.manifest import Manifest
from pipeline.tables.rows import read_shards
from pipeline.tables.shards import list_shards, write_table
from pipeline.verify import verify
from tests.conftest import free_port
from tests.plans import planned
from tests.tiny import NUM_TOKENS, save_tiny_bundle

PROMPTS = ["a red bag", "a blue dress on fur", "a green boot"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    save_tiny_bundle(folder)
    return folder


@pytest.fixture
def config(bundle, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return GenerateConfig(
        run="made",
        runs=str(tmp_path / "runs"),
        bundle=str(bundle),
        prompts=str(tmp_path / "prompts.txt"),
        pairs=10,
        sampler=SamplerSettings(steps=2, guidance=2.0, precision="float32", batch_size=4),
        refine=Refine(min_area_px=0),
        rows_per_shard=4,
        workers=Workers(threads=1),
    )


def test_a_bundle_that_was_cut_is_told_before_a_run_begins_and_binds_nobody(config, bundle, tmp_path):
    cut = tmp_path / "cut"
    shutil.copytree(bundle, cut)
    weights = cut / "joint" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="cut/joint/model.safetensors: damaged"):
        generate(changed(config, bundle=str(cut)))
    assert not config.folder.exists()


def changed(config: GenerateConfig, **values) -> GenerateConfig:
    return GenerateConfig.model_validate({**dict(config), **values})


def test_a_longer_plan_begins_like_a_shorter_one_and_ids_are_unique(config):
    short, long = planned(config, "digest"), planned(changed(config, pairs=30), "digest")
    assert long.slice(0, 10).equals(short)
    assert len(set(long["pair_id"].to_pylist())) == len(set(long["seed"].to_pylist())) == 30
    first, second = (long["prompt"].to_pylist()[start : start + 3] for start in (0, 3))
    assert sorted(first) == sorted(PROMPTS) and second == first, "in turns"


def test_a_prompt_that_occurs_twice_gives_different_pairs(config, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red bag\na red bag\n")
    rows = planned(changed(config, pairs=4), "digest")
    assert len(set(rows["pair_id"].to_pylist())) == 4
    assert rows["repeat"].to_pylist() == [0, 1, 2, 3]


def test_settings_and_weights_are_part_of_an_id(config):
    first = planned(config, "digest")["pair_id"][0]
    assert first != planned(config, "other")["pair_id"][0]
    assert first != planned(changed(config, refine=Refine(min_area_px=5)), "digest")["pair_id"][0]
    assert first != planned(changed(config, seed=1), "digest")["pair_id"][0]


def test_guidance_is_the_bundles_where_the_config_names_none(config):
    steps = SamplerSettings(steps=2, batch_size=4)
    assert changed(config, sampler=steps).resolved().sampler.guidance == 2.0, "as tests.tiny writes it"
    fast = changed(config, preset="fast").resolved()
    assert (fast.sampler.steps, fast.sampler.guidance, fast.sampler.batch_size) == (12, 2.0, 4)
    assert fast.resolved() == fast


def test_wrong_prompts_and_bundle_are_explained(config, tmp_path):
    with pytest.raises(DataError, match="nowhere.txt: cannot read prompts"):
        read_prompts(str(tmp_path / "nowhere.txt"))
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match="holds no prompts"):
        read_prompts(str(tmp_path / "empty.txt"))
    with pytest.raises(WeightsError, match="no such bundle"):
        generate(changed(config, bundle=str(tmp_path / "nothing")))


def test_a_run_that_an_earlier_release_began_keeps_its_turns(config, tmp_path):
    folder = tmp_path / "runs" / "made"
    assert not _in_former_turns(str(folder)), "a new run"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("job: generate\npairs: 10\n")
    assert not _in_former_turns(str(folder)), "one that made nothing"
    write_table(pa.table({"pair_id": ["a"]}), f"{folder}/shards")
    assert _in_former_turns(str(folder))
    (folder / "config.yaml").write_text("job: generate\npairs: 10\nturns: drawn\n")
    assert not _in_former_turns(str(folder))


@pytest.mark.ray
def test_generate_resume_extend_and_remake(config, bundle, ray_session):
    (bundle.parent / "prompts.txt").write_text("\n".join(["a red bag " * NUM_TOKENS, "", *PROMPTS, "  "]))
    config = changed(config, prompts=str(bundle.parent / "prompts.txt"))
    manifest = generate(config)
    assert (manifest.num_pairs, manifest.num_errors) == (8, 2), "blank prompts take no share"
    assert manifest.errors_by_reason == {"prompt_too_long": 2}
    folder = str(config.folder)
    before = read_shards([folder]).sort_by("pair_id")
    files = sorted((config.folder / "shards").iterdir())

    assert generate(config) == manifest, "a second start finds everything made"
    assert sorted((config.folder / "shards").iterdir()) == files

    extended = generate(changed(config, pairs=16))
    assert (extended.num_pairs, extended.num_errors, extended.num_duplicates) == (12, 4, 0)
    rows = read_shards([folder]).sort_by("pair_id")
    wanted = planned(changed(config, pairs=16), rows["bundle"][0].as_py())
    assert set(rows["pair_id"].to_pylist()) <= set(wanted["pair_id"].to_pylist())
    kept = rows.filter(np.isin(rows["pair_id"].to_pylist(), before["pair_id"].to_pylist()))
    assert kept["image"].equals(before["image"]) and kept["mask"].equals(before["mask"])
    assert verify(folder, deep=True) == []

    row = rows.slice(5, 1).to_pylist()[0]
    assert find_row(folder, row["pair_id"]) == row
    again = compare(row, str(bundle))
    assert again.equal
    assert np.array_equal(again.image, decode_image(row["image"]["bytes"], "row"))
    other = compare({**row, "mask": {"bytes": encode_mask(again.mask ^ 1)}}, str(bundle))
    assert not other.equal and other.differing_mask_pixels == again.mask.size

    verify_job(VerifyConfig(pairs=folder))
    shard = next((config.folder / "shards").iterdir())
    moved = shard.rename(shard.with_name("other.parquet"))
    with pytest.raises(DataError, match="1 problems"):
        verify_job(VerifyConfig(pairs=folder))
    moved.rename(shard)

    job = RegenerateConfig(pairs=folder, bundle=str(bundle), pair_id=row["pair_id"], output=str(bundle.parent))
    regenerate_job(job)
    saved = Image.open(bundle.parent / f"{row['pair_id']}.mask.png")
    assert np.array_equal(np.array(saved), again.mask)
    with pytest.raises(DataError, match="holds no pair"):
        regenerate_job(job.model_copy(update={"pair_id": "nobody"}))

    refined = refine(RefineConfig(run="refined", runs=config.runs, pairs=folder, refine=Refine(min_area_px=6)))
    assert refined.num_pairs == 12
    direct = changed(config, run="direct", pairs=16, refine=Refine(min_area_px=6))
    generate(direct)
    ours, theirs = (
        read_shards([str(one)]).sort_by("pair_id") for one in (config.folder.parent / "refined", direct.folder)
    )
    assert ours["pair_id"].equals(theirs["pair_id"]), "refining later gives what refining at once gives"
    assert ours["mask"].equals(theirs["mask"])


@pytest.mark.ray
def test_pairs_that_were_drawn_again_can_be_made_again(config, bundle, ray_session):
    assert '"redraws"' not in config.resolved().provenance(), "ids of earlier runs stay valid"
    config = changed(config, redraws=2)
    assert generate(config).num_pairs == 10
    rows = read_shards([str(config.folder)]).sort_by("pair_id")
    assert {1, 3} & set(rows["draws"].to_pylist()) and max(rows["draws"].to_pylist()) > 1
    assert verify(str(config.folder), deep=True) == []
    row = rows.to_pylist()[int(np.argmax(rows["draws"]))]
    assert compare(row, str(bundle)).equal

    refine(RefineConfig(run="later", runs=config.runs, pairs=str(config.folder), refine=Refine(min_area_px=30)))
    later = read_shards([str(config.folder.parent / "later")])
    assert compare(later.to_pylist()[int(np.argmax(later["draws"]))], str(bundle)).equal, (
        "draws go by the refinement of then"
    )


@pytest.mark.ray
def test_another_config_in_the_same_run_is_refused_with_the_difference(config, ray_session):
    generate(config)
    with pytest.raises(ConfigError, match="sampler.steps: 2 -> 3"):
        generate(changed(config, sampler=SamplerSettings(steps=3, guidance=2.0, precision="float32", batch_size=4)))
    with pytest.raises(ConfigError, match="was made with bundle"):
        regenerate({"bundle": "other", "prompt": "a", "seed": 1, "sampler": "{}"}, config.bundle)
    for shard in (config.folder / "shards").iterdir():
        assert pq.read_metadata(shard).num_rows
    assert Manifest.load(str(config.folder / "manifest.json")).num_pairs == 10


@pytest.mark.ray
def test_a_job_begins_while_mlflow_is_looked_for_and_stops_where_there_is_none(config, ray_session, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = changed(config, pairs=400, tracking_uri=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ConfigError, match="does not answer: .*; check tracking_uri"):
        generate(away)
    made = len(read_shards([str(away.folder)])) if list_shards(str(away.folder)) else 0
    assert made < 400, "the graph was stopped"
    assert generate(changed(config, pairs=10)).num_pairs == max(10, made), "by the same run, with another tracking_uri"
