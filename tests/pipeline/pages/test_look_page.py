"""The page of what was understood of some pairs."""

from __future__ import annotations

import numpy as np

from models.labels import LabelSpace
from pipeline.pages.look_page import classes_seen, render
from pipeline.pictures.codec import encode_image, encode_mask

LABELS = LabelSpace.custom("tools", ("bolt", "nut & <b>"))


def row(name: str, mask: np.ndarray | None) -> dict:
    areas = np.unique(mask, return_counts=True) if mask is not None else ([], [])
    return {
        "pair_id": name,
        "prompt": "a bolt",
        "image": encode_image(np.full((4, 4, 3), 90, np.uint8)),
        "mask": b"" if mask is None else encode_mask(mask),
        "class_ids": areas[0],
        "class_pixels": areas[1],
    }


ROWS = [row("a", np.array([[0, 1, 1, 255]] * 4, np.uint8)), row("b", np.zeros((4, 4), np.uint8)), row("c", None)]


def test_every_class_has_its_share_also_one_that_is_nowhere() -> None:
    seen = {one.id: (one.name, one.share, one.pictures) for one in classes_seen(ROWS, LABELS)}

    assert seen[0] == ("background", 20 / 32, 2) and seen[1] == ("bolt", 8 / 32, 1)
    assert seen[2][1:] == (0, 0) and seen[255] == ("(no known class)", 4 / 32, 1)


def test_the_page_shows_pictures_and_overlays_and_what_failed() -> None:
    page = render("mine/train", ROWS, ["x.png: <broken>"], LABELS, {"read": "3 of 9 pairs"})

    assert page.count("data:image/png;base64") == 5, "a picture each, and the mask over two of them"
    assert "nut &amp; &lt;b&gt;" in page and "x.png: &lt;broken&gt;" in page and "3 of 9 pairs" in page
    assert "no mask" in page and "no class beside 0" in page
