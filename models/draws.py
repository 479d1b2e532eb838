"""Random numbers of a batch, from a stream of each row's own.

What a row gets follows from (seed, step, its place in the whole batch), so that it depends neither on how many workers
share the batch, nor on the parts that a worker cuts its share into, nor on whether a training was ever stopped.

Legend: B rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


class Draws:
    """The streams of some rows of a batch; every call takes their next numbers.

    Args:
        seed: of the training, or of whatever draws.
        step: number of the batch.
        rows: places of the rows in the whole batch, which other workers may hold parts of.
        device: where the numbers are put. They are drawn on the CPU, so that all devices see the same.
    """

    def __init__(self, seed: int, step: int, rows: Iterable[int], device: torch.device | str = "cpu") -> None:
        self.device, self.step = torch.device(device), step
        self._streams = [torch.Generator().manual_seed(_digest(seed, step, row)) for row in rows]

    def normal(self, shape: Sequence[int] = ()) -> Tensor:
        """(B, *shape) float32, standard normal."""
        return self._fill(shape, lambda row, stream: row.normal_(generator=stream))

    def uniform(self, shape: Sequence[int] = ()) -> Tensor:
        """(B, *shape) float32, from 0 to below 1."""
        return self._fill(shape, lambda row, stream: row.uniform_(generator=stream))

    def whole(self, below: int) -> Tensor:
        """(B,) float32 whole numbers from 0 to below `below`, all alike."""
        return self._fill((), lambda row, stream: row.random_(0, below, generator=stream))

    def seeds(self) -> list[int]:
        """(B,) whole numbers here on the host, for generators elsewhere: what is many is drawn where it is used."""
        return [int(torch.randint(2**53, (), generator=stream)) for stream in self._streams]

    def _fill(self, shape: Sequence[int], fill: Callable[[Tensor, torch.Generator], object]) -> Tensor:
        # From pinned memory the copy runs beside the device's work; from other memory it would wait for it.
        values = torch.empty(len(self._streams), *shape, pin_memory=self.device.type == "cuda")
        for row, stream in zip(values, self._streams, strict=True):
            fill(row, stream)
        return values.to(self.device, non_blocking=True)


def _digest(seed: int, step: int, row: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{step}/{row}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
