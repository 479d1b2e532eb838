"""Finish: what every job that makes pairs does last."""

from __future__ import annotations

import json
from dataclasses import asdict

import ray

from pipeline.base.log import log
from pipeline.cluster.tasks import get
from pipeline.runs.run import Run
from pipeline.tables.healing import heal, remove_shards
from pipeline.tables.manifest import Manifest


def finish(run: Run) -> Manifest:
    """Removes what is there twice, derives the manifest from the shards and logs what is in them."""
    folder = str(run.folder)
    remove_shards(get(ray.remote(heal).remote(folder)))
    manifest: Manifest = get(ray.remote(scan).remote(folder))
    manifest.save(f"{folder}/manifest.json")
    run.tracker.text("manifest.json", json.dumps(asdict(manifest), indent=1))
    run.tracker.metrics({"pairs": manifest.num_pairs, "errors": manifest.num_errors, "bytes": manifest.num_bytes})
    log.info("%d pairs and %d errors in %s", manifest.num_pairs, manifest.num_errors, folder)
    for reason, count in manifest.errors_by_reason.items():
        log.info("%d rows failed: %s (see errors/)", count, reason)
    return manifest


def scan(folder: str) -> Manifest:
    """`Manifest.scan` as a function, which a Ray task has to be: it runs in a process that gives its memory back."""
    return Manifest.scan(folder)
