"""How likely a picture is what nobody wants: the sum of the unwanted names' shares, for pictures of any size."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.base.errors import ConfigError
from pipeline.pictures.codec import encode_image
from pipeline.stages import score_safety
from pipeline.stages.score_safety import Safety, places_of, safety_scores


def test_shares_of_unwanted_names_are_added():
    images = [np.full((4, side, 3), value, np.uint8) for side, value in ((4, 0), (8, 255))]
    rows = pa.table({"pair_id": ["a", "b"], "image": [{"bytes": encode_image(one)} for one in images]})

    def sees(image):
        return np.array([[0.25, 0.5, 0.25]]) if image.max() else np.array([[1.0, 0.0, 0.0]])

    found = safety_scores(rows, sees=sees, unwanted=(1, 2), made_by="{}")
    assert found["unsafe"].to_pylist() == [0.0, 0.75] and found["safety_by"].to_pylist() == ["{}", "{}"]


def test_names_are_found_in_any_case_and_unknown_ones_told(monkeypatch):
    monkeypatch.setattr(score_safety, "names_of", lambda source: ["Normal", "Nudity", "Gore"])
    assert places_of(Safety(model="a", names=("gore", "NUDITY"))) == [2, 1]
    with pytest.raises(ValidationError, match="names"):  # else every picture would be as safe as can be
        Safety(model="a", names=())
    with pytest.raises(ConfigError, match="nsfw is nothing that a calls a picture; it knows Normal, Nudity, Gore"):
        places_of(Safety(model="a"))
