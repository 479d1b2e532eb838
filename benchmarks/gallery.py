"""A gallery of many pairs: how long it takes to make, how large it is, and how soon a browser shows and sorts it.

`python -m benchmarks.gallery --rows 10000 1000000`. The pairs are made up: few small pictures again and again, but ids,
seeds, texts and scores of their own. Needs Chromium; its memory is that of the page's process alone.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks.chromium import Page, browsing, installed
from benchmarks.sampler import chip
from benchmarks.scale import Memory
from models.labels import GARMENTS
from pipeline.base.config import Workers
from pipeline.cluster.connection import cluster
from pipeline.datasets.builtin import BuiltinScenes
from pipeline.gallery import GalleryConfig, gallery
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.tables.conform import conform
from pipeline.tables.label_space import LABELS
from pipeline.tables.schema import PAIR
from pipeline.tables.scores import score_schema
from pipeline.tables.shards import write_table

SHARD = 50_000
PICTURES = 200
PLACES = ("on fur", "by a shed", "in a village", "at a wall", "on leaves", "under a bridge")
SHOWN = "performance.getEntriesByName('tiles').length"
SETTLED = (
    "!document.body.hasAttribute('aria-busy')"
    " && [...document.querySelectorAll('#tiles li')].every((one) => 'drawn' in one.dataset)"
)
"""What is true of the page when it has drawn all that is seen."""
STEPS = {
    "sorted by a score": "location.hash = 'sort=-sharpness'",
    "words looked for": "location.hash = 'q=red bag -dress'",
    "a class and a bound": "location.hash = 'class=3&n.contrast=0.2~0.4'",
    "in the middle": "grid.scrollTop = grid.scrollHeight / 2",
    "at the end": "grid.scrollTop = grid.scrollHeight",
}
"""What somebody does, in JavaScript."""
DONE = """new Promise((done) => {
    const grid = document.getElementById('grid'), event = %r;
    (event === 'scroll' ? grid : window).addEventListener(event, () => setTimeout(done), { once: true });
    %s;
})"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000])
    parser.add_argument("--size-px", type=int, default=32)
    parser.add_argument("--large-pairs", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", default="", help="default: a temporary one")
    options = parser.parse_args()
    print(f"{datetime.date.today()}  {chip(torch.device('cpu'))}  {' '.join(sys.orig_argv)}", flush=True)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="benchmark"))
    try:
        for rows in options.rows:
            print(f"{rows:,} pairs of {options.size_px} px", flush=True)
            pairs, scores = fabricate(folder / f"pairs-{rows}", rows, options.size_px)
            make(folder, rows, pairs, scores, options)
            if installed():
                look(folder / f"gallery-{rows}" / "gallery")
    finally:
        if not options.folder:
            shutil.rmtree(folder)


def fabricate(folder: Path, rows: int, size_px: int) -> tuple[Path, Path]:
    """Writes a run of made-up pairs and one of their scores, if they are not there; returns both folders."""
    scores = folder.parent / f"{folder.name}-scores"
    if (folder / LABELS).exists():
        return folder, scores
    source = BuiltinScenes("train", 0, size_px)
    scenes = [source(number) for number in range(min(rows, PICTURES))]
    images, masks = [encode_image(one.image) for one in scenes], [encode_mask(one.mask) for one in scenes]
    found = [np.unique(one.mask, return_counts=True) for one in scenes]
    rng = np.random.default_rng(0)
    for first in range(0, rows, SHARD):
        num = min(SHARD, rows - first)
        which = rng.integers(len(scenes), size=num).tolist()
        ids = [rng.bytes(16).hex() for _ in range(num)]
        # A third as many texts as pairs.
        words = rng.integers(rows // 3 + 1, size=num).tolist()
        texts = [f"{scenes[one].prompt} {PLACES[word % 6]} {word}" for one, word in zip(which, words, strict=True)]
        table = pa.table(
            {
                "pair_id": ids, "prompt": texts, "seed": rng.integers(2**63 - 1, size=num),
                "image": [images[one] for one in which], "mask": [masks[one] for one in which],
                "height": [size_px] * num, "width": [size_px] * num,
                "class_ids": [found[one][0].tolist() for one in which],
                "class_pixels": [found[one][1].tolist() for one in which],
                "confidence_mean": rng.beta(20, 1, num).astype(np.float32),
                "origin": ["synthetic"] * num, "bundle": ["bundle"] * num, "sampler": ['{"steps":20}'] * num,
            }
        )  # fmt: skip
        write_table(conform(table, PAIR), f"{folder}/shards")
        plain = {
            "pair_id": ids, "sharpness": rng.gamma(2, 200, num), "contrast": rng.uniform(0, 0.5, num),
            "dark": rng.beta(1, 9, num), "regions": rng.integers(1, 9, num), "edge_contrast": rng.gamma(4, 0.5, num),
            "unknown": rng.beta(1, 30, num), "classes_found": rng.integers(2, 4, num) / 3,
            "picture_hash": rng.integers(2**63 - 1, size=num), "plain_by": ["{}"] * num,
        }  # fmt: skip
        write_table(conform(pa.table(plain), score_schema("plain")), f"{scores}/plain/shards")
    GARMENTS.save(folder / LABELS)
    return folder, scores


def make(folder: Path, rows: int, pairs: Path, scores: Path, options: argparse.Namespace) -> None:
    """Makes the gallery, and tells what that takes."""
    config = GalleryConfig.model_validate(
        {
            "run": f"gallery-{rows}", "runs": str(folder), "pairs": (str(pairs),), "scores": (str(scores),),
            "large_pairs": options.large_pairs, "workers": Workers(num=options.workers),
        }
    )  # fmt: skip
    with cluster(), Memory() as memory:
        began = time.perf_counter()
        gallery(config)
        seconds = time.perf_counter() - began
    peaks = ", ".join(
        f"{name} {peak / 1e6:.0f} MB" for name, peak in memory.peaks.items() if name in ("driver", "a worker")
    )
    print(f"  made in {seconds:.0f} s, {rows / seconds:.0f} pairs/s; memory at most: {peaks}", flush=True)
    for name in ("pictures", "index-*"):
        files = [path for top in (folder / config.run / "gallery").glob(name) for path in top.rglob("*.*")]
        print(f"  {name}: {len(files):,} files, {sum(path.stat().st_size for path in files) / 1e9:.3f} GB", flush=True)


def look(folder: Path) -> None:
    """Tells how soon a browser shows the gallery, and what it then does for somebody who looks."""
    with browsing() as page, served(folder) as server:
        page.look(1280, 800)
        for address in (f"file://{folder}/index.html", f"{server}/index.html"):
            times = [first_view_s(page, address) for _ in range(3)]
            shown = ", ".join(f"{one:.2f}" for one in times)
            print(
                f"  {address.partition(':')[0]}: first view {statistics.median(times):.2f} s ({shown}), "
                f"{page.memory_bytes() / 1e6:.0f} MB",
                flush=True,
            )
        address = f"file://{folder}/index.html"
        for name, step in STEPS.items():
            first_view_s(page, address)
            began = time.perf_counter()
            page.evaluate(DONE % ("scroll" if "scrollTop" in step else "hashchange", step))
            page.wait_for(f"document.querySelector('#tiles li') && {SETTLED}")
            seconds = time.perf_counter() - began
            said = page.evaluate("document.getElementById('status').textContent")
            places = page.evaluate("[...document.querySelectorAll('#tiles li')].map((one) => one.place + 1)")
            seen = f"tiles {min(places):,} to {max(places):,} of {said}"
            print(f"  {name}: {seconds:.2f} s, {page.memory_bytes() / 1e6:.0f} MB ({seen})", flush=True)
        assert not page.errors, page.errors


def first_view_s(page: Page, address: str) -> float:
    """Seconds from the beginning of the navigation until all tiles that are seen are painted."""
    page.open(address)
    page.wait_for(SHOWN)
    return float(page.evaluate("performance.getEntriesByName('tiles')[0].startTime")) / 1000


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which a plain server shows a folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    main()
