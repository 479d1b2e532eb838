"""The one list of precisions that networks are run in."""

from __future__ import annotations

from typing import Literal

Precision = Literal["float32", "bfloat16"]
"""Of matrix products; weights that are trained, sums and what is kept stay in float32."""
