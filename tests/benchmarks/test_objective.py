"""The objectives' benchmark measures every option, goes on where it was stopped, and compares errors fairly."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

from benchmarks.objective import REAL, print_table, study
from benchmarks.objective_options import OPTIONS, rescaled, with_statistics
from models.weights import ENCODERS, digest
from pipeline.stages.encode import EncodePairs, Views
from pipeline.tables.rows import read_shards
from pipeline.tables.schema import latent_schema
from pipeline.tables.shards import write_table
from tests.tiny import NUM_TOKENS, SIZE_PX, save_pairs, tiny_encoders

SHAPES = {"image_latent": (4, 4, 4), "mask_latent": (4, 4, 4), "image_embedding": (1, 8), "text_embedding": (12, 16)}


@pytest.fixture
def options(tmp_path):
    """What the demo's training leaves behind, and the smallest study."""
    torch.set_num_threads(1)
    for split, name in (("train", "real-train"), ("test", "real-validation")):
        save_pairs(tmp_path / name, 8, split)
    rows = read_shards([str(tmp_path / "real-train")], ["pair_id", "prompt", "captions", "image", "mask"])
    encoders = tiny_encoders()
    for name in ("latents-train", "latents-validation"):
        folder = tmp_path / name
        encoders.save(folder / "encoders")
        encode = EncodePairs(str(folder / "encoders"), Views(size_px=SIZE_PX))
        made = encode({column: np.array(rows[column].to_pylist(), object) for column in rows.column_names})
        schema = latent_schema(SHAPES, digest(folder / "encoders", ENCODERS))
        table = pa.table({field.name: pa.array(list(made[field.name]), field.type) for field in schema}, schema=schema)
        write_table(table, f"{folder}/shards")
    preset = {
        "run": "joint",
        "image_size_px": SIZE_PX,
        "net": {"latent_size": 4, "head_width": 8, "text_bottleneck": 8, "clip_image_width": 8}
        | {"num_text_tokens": NUM_TOKENS, "text_width": 16},
        "diffusion": {"objective": "flow", "time_shift": 3.0, "text_noise": "dropout"},
        "loss_weights": {"image": 1.0, "clip_image": 0.05, "mask": 1.0},
        "optimisation": {"num_examples": 1, "batch_size": 4, "precision": "float32"},
    }
    (tmp_path / "joint.yaml").write_text(yaml.safe_dump(preset))
    sizes: dict[str, Any] = {
        "examples": 8,
        "patch_size": 2,
        "heads": 2,
        "layers": 2,
        "rate": 1.0,
        "pairs": 2,
        "judge_pairs": 4,
    }
    sizes |= {"test_pairs": 4, "epochs": 1, "width": 4, "seeds": 1, "only": []}
    out = str(tmp_path / "out")
    return argparse.Namespace(runs=str(tmp_path), out=out, config=str(tmp_path / "joint.yaml"), **sizes)


def test_every_option_is_measured_once(options, monkeypatch, capsys):
    results = study(options)
    assert [result["option"] for result in results] == [REAL, *OPTIONS]
    for result in results[1:]:
        assert result["steps"] == 2 and 0 <= result["miou"] <= 1 and 0 <= result["exact_classes"] <= 1
        assert np.isfinite([result["mask_error"], result["image_error"]]).all()
    monkeypatch.setattr("benchmarks.objective.measure", lambda *arguments: pytest.fail("it is there already"))
    assert json.dumps(study(options)) == json.dumps(results)
    capsys.readouterr()
    print_table(results + results)
    rows = capsys.readouterr().out.strip().splitlines()
    assert len(rows) == 2 + len(results) and rows[2].split(" | ")[3] == "2"


def test_latents_of_another_scale_decode_to_the_same_masks():
    vae = tiny_encoders().annotation_vae
    other = with_statistics(vae, 5.0)
    stored = vae.normalize(torch.randn(2, 4, 4, 4))
    scaled = rescaled({"mask_latent": stored}, vae, other)["mask_latent"]
    assert scaled.std() < stored.std() / 4
    torch.testing.assert_close(other.decode(other.denormalize(scaled)), vae.decode(vae.denormalize(stored)))
