"""Pairs and encoders to encode them with, and latents that nothing encoded."""

from __future__ import annotations

import json
from typing import Any, cast

import pyarrow as pa
import torch

from pipeline.encode import EncodeConfig, EncoderFolders
from pipeline.evaluate import EvaluateConfig, begin
from pipeline.stages.encode import LATENTS
from pipeline.tables.schema import latent_schema
from pipeline.tables.shards import write_table
from pipeline.training.config import TrainingConfig
from pipeline.training.feed import Feed
from pipeline.training.worker import SCORES, WEIGHTS_FOLDER
from tests.tiny import save_pairs, tiny_encoders

LATENT_SHAPES = {
    "image_latent": (4, 4, 4),
    "mask_latent": (4, 4, 4),
    "image_embedding": (1, 8),
    "text_embedding": (12, 16),
}


def encode_config(tmp_path):
    """Of six pairs and random encoders."""
    save_pairs(tmp_path / "pairs", 6, size_px=32)
    tiny_encoders().save(tmp_path / "parts")
    return EncodeConfig(
        run="latents",
        runs=str(tmp_path),
        pairs=(str(tmp_path / "pairs"),),
        encoders=EncoderFolders(
            text=str(tmp_path / "parts"),
            image_vae=str(tmp_path / "parts/image_vae"),
            annotation_vae=str(tmp_path / "parts/annotation_vae"),
        ),
    )


def save_latents(config, keys, encoders, **shapes):
    rows: dict[str, list] = {"latent_id": keys, "pair_id": keys, "flipped": [False] * len(keys)}
    rows |= {name: [b"\0"] * len(keys) for name in LATENTS}
    schema = latent_schema({**LATENT_SHAPES, **shapes}, encoders)
    columns = [pa.array(rows.get(field.name, [None] * len(keys)), field.type) for field in schema]
    write_table(pa.table(columns, schema=schema), f"{config.folder}/shards")


def train_other_encoders(config):
    """What another training leaves in the same place."""
    encoders = tiny_encoders()
    with torch.no_grad():
        next(encoders.annotation_vae.parameters()).add_(1)
    encoders.save(config.encoders.text)


def training_of(config: EvaluateConfig, name: str = "real", seed: int = 0) -> TrainingConfig:
    """The training that a proof asks for."""
    return begin(config, cast(Any, None), []).training(name, seed)


def fit_at_once(task, config, run) -> dict[str, float]:
    """In place of `pipeline.training.fit.fit`, in this process: fresh weights, saved and judged, but not trained."""
    held_out = Feed((config.validation,), task.columns, task.decode).head(config.validation_rows)
    torch.manual_seed(config.seed)
    net = task.build().eval()
    with torch.no_grad():
        task.save(net, held_out, run.folder / WEIGHTS_FOLDER)
        evaluation = task.evaluate(net, held_out)
    for name, content in evaluation.files.items():
        (run.folder / name).write_bytes(content)
    scores = {**evaluation.metrics, "training_s": 1.0}
    (run.folder / SCORES).write_text(json.dumps(scores))
    return scores
