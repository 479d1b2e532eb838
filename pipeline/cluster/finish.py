"""Finish: what every job that makes pairs does last."""

from __future__ import annotations

import json
from dataclasses import asdict

from pipeline.base.log import log
from pipeline.cluster.tasks import in_task
from pipeline.runs.run import Run
from pipeline.storage.files import is_file
from pipeline.storage.publish import write_bytes
from pipeline.tables.healing import heal, remove_shards
from pipeline.tables.label_space import CARD, LABELS, load_labels, run_card
from pipeline.tables.manifest import MANIFEST, Manifest


def finish(run: Run) -> Manifest:
    """Removes what is there twice, derives the manifest from the shards and logs what is in them."""
    folder = str(run.folder)
    heal_run(folder)
    manifest: Manifest = in_task(scan, folder)
    manifest.save(f"{folder}/{MANIFEST}")
    if is_file(f"{folder}/{LABELS}") and manifest.num_pairs:
        write_bytes(f"{folder}/{CARD}", run_card(load_labels(folder)).encode())
    run.tracker.text(MANIFEST, json.dumps(asdict(manifest), indent=1))
    run.tracker.metrics({"pairs": manifest.num_pairs, "errors": manifest.num_errors, "bytes": manifest.num_bytes})
    log.info("%d pairs and %d errors in %s", manifest.num_pairs, manifest.num_errors, folder)
    for reason, count in manifest.errors_by_reason.items():
        log.info("%d rows failed: %s (see errors/)", count, reason)
    return manifest


def heal_run(folder: str) -> None:
    """Removes rows that a run holds twice."""
    remove_shards(in_task(heal, folder))


def scan(folder: str) -> Manifest:
    """`Manifest.scan` as a function, which a Ray task has to be."""
    return Manifest.scan(folder)
