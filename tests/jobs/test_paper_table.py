"""Each table of the paper from one command, with tiny parts; what it would take is said before."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import jobs.paper_table as job
from jobs.paper_table import PaperTableConfig
from models.labels import GARMENTS, LabelSpace
from pipeline.base.errors import ConfigError
from pipeline.evaluation import paper
from pipeline.training import proving
from tests.pipeline.fabricated import fit_at_once
from tests.tiny import save_pairs


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Runs of pairs, and trainings that cost nothing."""
    for name, num, split in (("real", 6, "train"), ("synthetic", 8, "validation"), ("test", 4, "test")):
        save_voc(tmp_path / name, num, split)
    monkeypatch.setattr(proving, "fit", fit_at_once)
    monkeypatch.setattr(job, "cluster", nullcontext)
    monkeypatch.setattr(job, "refine", lambda config: save_voc(config.folder, 4, "train"))
    return tmp_path


def save_voc(folder, num_pairs: int, split: str) -> None:
    """Built-in pairs whose classes are called as those of VOC."""
    save_pairs(folder, num_pairs, split)
    LabelSpace.named("voc").save(folder / "label_space.json")


def save_vae(folder, test, **changes):
    """What a finished training of an annotation VAE leaves, judged on the test pairs."""
    folder.mkdir()
    saved = {"job": "train_vae", "net": "annotation", "validation": str(test), "validation_rows": 4, **changes}
    (folder / "config.yaml").write_text(yaml.safe_dump(saved))
    (folder / "scores.json").write_text(json.dumps({"miou": 0.9912}))
    return str(folder)


def config(place, table: int, **changes) -> PaperTableConfig:
    values: dict[str, Any] = {
        "run": f"table{table}",
        "runs": str(place / "runs"),
        "table": table,
        "dataset": "voc",
        "real": [str(place / "real")],
        "synthetic": [str(place / "synthetic")],
        "test": str(place / "test"),
        "test_rows": 4,
        "segmenters": {
            "deeplabv3_tiny": {"steps": 3, "batch_size": 2},
            "segformer_tiny": {"steps": 2, "batch_size": 2},
        },
        "crop_px": 32,
        "seeds": 1,
        "generator_labels": 6,
        "sizes": [2, 4, 8],
        "thresholds": [0, 20],
    }
    return PaperTableConfig.model_validate({**values, **changes})


def rows(place, table: int) -> list[list[str]]:
    text = (place / "runs" / f"table{table}" / "table.md").read_text()
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line] for line in lines]


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (2, ["real", "synthetic", "real + synthetic"]),
        (3, ["real", "synthetic", "real + synthetic"]),
        (4, ["threshold 0 px", "threshold 20 px"]),
        (5, ["2 pairs", "4 pairs", "8 pairs"]),
    ],
)
def test_a_table_has_each_set_of_each_network_at_equal_steps(place, table, names):
    one = {"segmenters": {"segformer_tiny": {"steps": 2, "batch_size": 2}}} if table != 2 else {}
    job.main(config(place, table, **one))
    found = rows(place, table)
    networks = {"deeplabv3_tiny": "3", "segformer_tiny": "2"} if table == 2 else {"segformer_tiny": "2"}
    assert [row[:2] for row in found] == [[network, name] for network in networks for name in names]
    pairs = {2: ["6", "8", "14"], 3: ["6", "8", "14"], 4: ["4", "4"], 5: ["2", "4", "8"]}[table]
    assert [row[2] for row in found] == pairs * len(networks)
    assert [row[6] for row in found] == [steps for steps in networks.values() for _ in names]
    assert all(float(row[4].split()[0]) >= 0 and float(row[5].split()[0]) >= 0 for row in found), "at both scales"
    page = (place / "runs" / f"table{table}" / "table.html").read_text()
    assert all(name in page for name in names) and "What differs from the paper" in page


def test_the_annotation_vaes_table_reads_what_its_training_reached(place):
    job.main(config(place, 1, annotation_vae=save_vae(place / "vae", place / "test")))
    assert rows(place, 1) == [["annotation VAE", "masks", "", "99.50", "99.12", "", "", "1"]]
    text = place / "runs" / "table1" / "table.md"
    assert "Mind" not in text.read_text()
    few = save_vae(place / "few", place / "test", validation_rows=3)
    job.main(config(place, 1, annotation_vae=few))
    assert "**Mind:** the annotation VAE was judged on 3 of 4 masks" in text.read_text()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"job": "segmenter", "net": ""}, "is no run of jobs.train_vae with net annotation"),
        ({"net": "image"}, "is no run of jobs.train_vae with net annotation"),
    ],
)
def test_what_is_no_annotation_vae_has_no_table(place, changes, told):
    with pytest.raises(ConfigError, match=told):
        job.main(config(place, 1, annotation_vae=save_vae(place / "vae", place / "test", **changes)))


def test_an_annotation_vae_that_has_not_ended_is_told(place):
    folder = save_vae(place / "vae", place / "test")
    (place / "vae" / "scores.json").unlink()
    with pytest.raises(ConfigError, match="has not ended; give its command to jobs.train_vae again"):
        job.main(config(place, 1, annotation_vae=folder))


def test_masks_of_another_data_set_never_stand_beside_the_papers_figures(place):
    vae = save_vae(place / "vae", place / "test")
    for table in (1, 2):
        with pytest.raises(ConfigError, match="have other classes than ade20k"):
            job.main(config(place, table, dataset="ade20k", annotation_vae=vae))
    GARMENTS.save(place / "test" / "label_space.json")
    for table in (1, 2, 5):
        with pytest.raises(ConfigError, match="test have other classes than voc"):
            job.main(config(place, table, annotation_vae=vae))


def test_a_table_says_what_speaks_against_it(place, capsys):
    there, test = (next((place / name / "shards").glob("*.parquet")) for name in ("real", "test"))
    rows, other = pq.read_table(there), pq.read_table(test)
    images = other["image"].combine_chunks().to_pylist() + rows["image"].to_pylist()[other.num_rows :]
    column = rows.schema.get_field_index("image")
    pq.write_table(rows.set_column(column, (kind := rows.schema.field(column)), pa.array(images, kind.type)), there)
    job.main(config(place, 2, segmenters={"segformer_tiny": {"steps": 2, "batch_size": 2}}))
    folder = place / "runs" / "table2"
    text, page = (folder / "table.md").read_text(), (folder / "table.html").read_text()
    told = [
        "test and sets.real have 2 pictures in common",
        "the paper's figures are of 40,000 generated pairs, these of 8",
    ]
    assert all(f"**Mind:** {one}" in text for one in told)
    assert "2 pictures in common" in page and "40,000 generated pairs, these of 8" in page
    assert "40,000 of them" in text, "among what differs"
    assert capsys.readouterr().out.count("test and sets.real have 2 pictures") == 1


def test_the_papers_figures_stand_beside_the_sets_that_they_are_of(place):
    figures = [job.figures(config(place, table), "deeplabv3_r50") for table in (2, 4, 5)]
    assert figures[0] == {"real": 77.4, "synthetic": 72.5, "real + synthetic": 78.3}
    assert figures[1]["threshold 20 px"] == figures[2]["40,000 pairs"] == 72.47
    assert job.figures(config(place, 4), "deeplabv3_r101") == {}
    assert set(paper.SEGMENTED) >= {("coco", "deeplabv3_r101"), ("ade20k", "mask2former_swin_s")}


def test_what_it_takes_is_said_before_and_alone_where_that_is_asked_for(place, caplog):
    caplog.set_level("INFO")
    small, large = (
        job.plan(config(place, 2), "deeplabv3_r50", job.Trained(steps=steps, batch_size=16)) for steps in (100, 200)
    )
    assert large == pytest.approx(2 * small)
    whole = config(place, 2, crop_px=512, segmenters={"deeplabv3_r50": {"steps": 20000}}, plan_only=True)
    job.main(whole)
    assert "GPU-hours for each training" in caplog.text and not whole.folder.exists()
    assert 2 < job.plan(whole, "deeplabv3_r50", job.Trained(steps=20000)) < 10


@pytest.mark.parametrize("name", ["deeplabv3_tiny", "mask2former_tiny", "segformer_tiny"])
def test_what_it_takes_is_known_of_every_kind_of_network(place, name):
    one = job.Trained(steps=100, batch_size=16)
    small, large = (job.plan(config(place, 2, crop_px=side), name, one) for side in (64, 128))
    assert large == pytest.approx(4 * small, rel=0.3)


@pytest.mark.parametrize(
    ("table", "changes", "told"),
    [
        (1, {}, "table 1 needs the keys annotation_vae"),
        (2, {"real": [], "test": ""}, "table 2 needs the keys test, real"),
        (4, {"segmenters": {}}, "table 4 needs the keys segmenters"),
    ],
)
def test_keys_that_are_missing_are_told(place, table, changes, told):
    with pytest.raises(ConfigError, match=told):
        job.main(config(place, table, **changes))


def test_weights_of_all_networks_are_looked_at_before_the_first_is_trained(place, monkeypatch):
    asked: list[object] = []
    monkeypatch.setattr(job, "evaluate", lambda config: asked.append(config))
    torch.save({"stem.0.weight": torch.zeros(1)}, place / "odd.pth")
    two = {"segformer_tiny": {"steps": 2}, "deeplabv3_tiny": {"steps": 3, "pretrained": str(place / "odd.pth")}}
    with pytest.raises(ConfigError, match=r"pretrained of deeplabv3_tiny: .*odd\.pth does not fit"):
        job.main(config(place, 2, segmenters=two))
    assert not asked


def test_table_five_takes_parts_of_one_run(place):
    two = [str(place / "synthetic"), str(place / "real")]
    with pytest.raises(ConfigError, match="give one folder as synthetic"):
        job.main(config(place, 5, synthetic=two))
