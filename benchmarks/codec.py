"""What encoding a picture costs, in time and bytes, by format: `python -m benchmarks.codec` (half a minute, one core).

Pictures are crops of the built-in photographs at 512 px, and masks of the same size with a few regions.
"""

from __future__ import annotations

import datetime
import sys
import time
from typing import get_args

import numpy as np
import torch
from PIL import Image

from benchmarks.sampler import chip
from pipeline.datasets.builtin import ASSETS
from pipeline.pictures.codec import ImageFormat, decode_image, encode_image, encode_mask

SIZE_PX, REPEATS = 512, 5


def main() -> None:
    photographs = [
        np.array(Image.open(path).convert("RGB").resize((SIZE_PX, SIZE_PX)))
        for path in sorted((ASSETS / "photographs").iterdir())
        if path.suffix in (".jpg", ".jpeg", ".png", ".webp")
    ]
    print(f"{datetime.date.today()}  {chip(torch.device('cpu'))}  {' '.join(sys.orig_argv)}")
    print(f"{len(photographs)} photographs of {SIZE_PX} px; a picture, one core")
    print(f"{'format':8} {'encode ms':>10} {'decode ms':>10} {'KB':>7}  lossless")
    for name in get_args(ImageFormat):
        encoded = [encode_image(one, name) for one in photographs]
        encode_ms = timed_ms(lambda name=name: [encode_image(one, name) for one in photographs]) / len(photographs)
        decode_ms = timed_ms(lambda encoded=encoded: [decode_image(one, "") for one in encoded]) / len(photographs)
        same = all(
            np.array_equal(decode_image(one, ""), photo) for one, photo in zip(encoded, photographs, strict=True)
        )
        size = sum(map(len, encoded)) / len(encoded) / 1000
        print(f"{name:8} {encode_ms:10.1f} {decode_ms:10.1f} {size:7.0f}  {same}")
    mask = np.kron(np.random.default_rng(0).integers(0, 21, (8, 8)), np.ones((64, 64))).astype(np.uint8)
    print(f"{'mask png':8} {timed_ms(lambda: encode_mask(mask)):10.1f} {'':10} {len(encode_mask(mask)) / 1000:7.1f}")


def timed_ms(function: object) -> float:
    """Process time of one call, the best of some."""
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        function()  # type: ignore[operator]
        times.append(time.process_time() - began)
    return 1000 * min(times)


if __name__ == "__main__":
    main()
