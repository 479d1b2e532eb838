"""How many pairs a core gives their plain scores in a second: `python -m benchmarks.scores --size-px 512`."""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
import time

import pyarrow as pa

from models.labels import GARMENTS
from pipeline.datasets.builtin import BuiltinScenes
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.stages.score_plain import Unwanted, plain_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-px", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=200)
    options = parser.parse_args()
    print(f"{datetime.date.today()}  {platform.processor()}  {' '.join(sys.orig_argv)}")
    scenes = BuiltinScenes("train", 0, options.size_px)
    made = [scenes(number) for number in range(options.pairs)]
    rows = pa.Table.from_pylist(
        [
            {
                "pair_id": str(number),
                "image": {"bytes": encode_image(one.image, "webp"), "path": None},
                "mask": {"bytes": encode_mask(one.mask), "path": None},
                "prompt": one.prompt,
            }
            for number, one in enumerate(made)
        ]
    )
    began = time.process_time()
    plain_scores(rows, labels=GARMENTS, unwanted=Unwanted(), made_by="{}")
    seconds = time.process_time() - began
    print(f"{options.pairs / seconds:.1f} pairs a second and core, {1000 * seconds / options.pairs:.1f} ms each")


if __name__ == "__main__":
    main()
