"""What all processes of `benchmarks.alone` need, loaded once, before any of them."""

import importlib

from benchmarks.alone_jobs import prepare

prepare()
for task in ("annotation_vae", "image_vae", "joint", "segmenter"):
    importlib.import_module(f"pipeline.training.tasks.{task}")
