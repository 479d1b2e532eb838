"""Masks in colours: exactly the class that a colour is written down for, or a sentence that says what to write."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from models.labels import VOC, LabelSpace, voc_palette
from pipeline.base.errors import MaskError
from pipeline.pictures.mask_colours import ColourError, Colours, checked_colour

LABELS = LabelSpace("signs", ("background", "stop", "give way"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)), 2)
IDS = np.array([[0, 1, 2], [2, 2, 0]], np.uint8)


def encoded(pixels, format="png", **options):
    buffer = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def colours(stated=True, kind="auto", **others):
    return Colours.of(LABELS, stated, {name.replace("x", "#", 1): value for name, value in others.items()}, kind)


@pytest.mark.parametrize("format", ["png", "bmp", "tiff"])
def test_colours_of_the_palette_are_their_classes(format):
    assert (colours().decode(encoded(LABELS.colours(IDS), format), "m") == IDS).all()


def test_ids_stay_ids_also_where_there_are_colours():
    assert (colours().decode(encoded(IDS), "m") == IDS).all()


def test_a_colour_may_be_the_ignore_index_and_transparency_a_class():
    pixels = np.dstack([LABELS.colours(IDS), np.full(IDS.shape, 255, np.uint8)])
    pixels[0, 0] = (9, 9, 9, 0)
    pixels[1, 2] = (255, 255, 255, 255)

    mask = colours(transparent=0, xffffff=255).decode(encoded(pixels), "m")

    assert mask.tolist() == [[0, 1, 2], [2, 2, 255]]


def test_colours_that_are_half_transparent_have_names_that_can_be_written_down():
    pixels = np.dstack([LABELS.colours(IDS), np.full(IDS.shape, 255, np.uint8)])
    pixels[0, 1] = (255, 0, 0, 128)

    with pytest.raises(ColourError, match=r"--mask-colours '#ff000080' 0") as error:
        colours().decode(encoded(pixels), "m")

    assert colours(xff000080=1).decode(encoded(pixels), "m").tolist() == IDS.tolist()
    assert error.value.counts == {"#ff000080": 1}
    assert [checked_colour(one) for one in ("FF0000FF", "#12345600")] == ["#ff0000", "transparent"]


def test_unknown_colours_are_named_with_counts_and_the_nearest_class():
    pixels = LABELS.colours(IDS)
    pixels[pixels[..., 1] == 255] = (0, 250, 0)

    with pytest.raises(ColourError) as error:
        colours().decode(encoded(pixels), "masks/a.png")

    assert "masks/a.png" in str(error.value) and "#00fa00 (3 pixels, nearest is give way #00ff00)" in str(error.value)
    assert error.value.counts == {"#00fa00": 3}
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value), "it comes from another process"


def test_without_a_stated_palette_all_colours_are_asked_for():
    with pytest.raises(ColourError, match="#00ff00.*--mask-colours '#00ff00' 0 '#000000' 1 '#ff0000' 2"):
        colours(stated=False).decode(encoded(LABELS.colours(IDS)), "m")


def test_a_colour_of_two_classes_is_none_of_them():
    twice = LabelSpace("signs", ("background", "a", "b"), ((0, 0, 0), (9, 0, 0), (9, 0, 0)), 2)

    with pytest.raises(ColourError, match="#090000"):
        Colours.of(twice, True, {}).decode(encoded(twice.colours(IDS)), "m")


def test_smoothed_masks_are_told_apart_from_forgotten_colours():
    pixels = np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)

    with pytest.raises(ColourError, match="scaling, smoothing"):
        colours().decode(encoded(pixels), "m")


def test_ids_that_were_saved_with_three_channels():
    grey = np.dstack([IDS] * 3)

    with pytest.raises(MaskError, match="--mask-kind ids"):
        colours(stated=False).decode(encoded(grey), "m")

    assert (colours(kind="ids").decode(encoded(grey), "m") == IDS).all()
    with pytest.raises(MaskError, match="its channels differ"):
        colours(kind="ids").decode(encoded(LABELS.colours(IDS)), "m")


def test_a_palette_whose_colours_and_indices_differ_is_asked_about():
    picture = Image.fromarray(np.where(IDS == 1, 2, np.where(IDS == 2, 1, 0)).astype(np.uint8)).convert("P")
    picture.putpalette([0, 0, 0, 0, 255, 0, 255, 0, 0])

    with pytest.raises(MaskError, match=r"index 1 .* #00ff00 of class 2.*--mask-kind"):
        colours().decode(encoded(picture), "m")

    assert (colours(kind="colours").decode(encoded(picture), "m") == IDS).all()


def test_so_is_one_with_a_colour_that_is_no_class_s_beside_them():
    picture = Image.fromarray(np.array([[0, 1, 2], [2, 2, 3]], np.uint8)).convert("P")
    picture.putpalette([0, 0, 0, 0, 255, 0, 255, 0, 0, 255, 255, 255])

    with pytest.raises(MaskError, match=r"index 1 .* #00ff00 of class 2.*--mask-kind"):
        colours().decode(encoded(picture), "m")


def test_masks_of_voc_are_ids_with_the_border_that_is_no_class_s():
    ids = np.array([[0, 15, 255], [20, 255, 1]], np.uint8)
    picture = Image.fromarray(ids).convert("P")
    picture.putpalette([value for colour in voc_palette(256) for value in colour])

    assert (Colours.of(VOC, True, {}).decode(encoded(picture), "m") == ids).all()


@pytest.mark.parametrize("format", ["jpeg", "webp", "avif"])
def test_lossy_colours_are_refused(format):
    with pytest.raises(MaskError, match="lossy"):
        colours().decode(encoded(LABELS.colours(IDS), format), "m")


def test_pages_are_refused():
    page = Image.fromarray(LABELS.colours(IDS))

    with pytest.raises(MaskError, match="2 pages"):
        colours().decode(encoded(page, "tiff", save_all=True, append_images=[page]), "m")


def test_names_of_colours():
    assert checked_colour("FF8000") == checked_colour("255, 128, 0") == "#ff8000"
    with pytest.raises(ValueError, match="no colour"):
        checked_colour("red")
