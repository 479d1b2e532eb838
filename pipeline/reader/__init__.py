"""What people train from: `PairDataset` for PyTorch, `read_pairs` for Ray Data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.reader.pair_dataset import Example, PairDataset, PairStream, random_crop
    from pipeline.reader.ray_data import read_pairs

__all__ = ["Example", "PairDataset", "PairStream", "random_crop", "read_pairs"]


def __getattr__(name: str) -> Any:
    """Imported when it is asked for: processes that read with Ray must not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "read_pairs":
        from pipeline.reader import ray_data as home
    else:
        from pipeline.reader import pair_dataset as home  # type: ignore[no-redef]
    return getattr(home, name)
