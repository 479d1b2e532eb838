"""Scale, crop, mirror and colours: each row by its own numbers, masks with their pictures, nothing known outside."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from models.draws import Draws
from models.segmenter import IMAGENET_MEAN
from pipeline.training.tasks.augment import Augmentation, augmented, copy_pasted, distorted, recoloured_by
from pipeline.training.tasks.pictures import to_float_image

PLAIN = Augmentation(crop_px=32, least_scale=1.0, greatest_scale=1.0, class_share=1.1, distorted=False)


def scene(rows: int = 6, height: int = 32, width: int = 32):
    """Pictures whose colour says the class of every pixel: ids 0 to 3 in blocks of 8 pixels."""
    ids = torch.randint(0, 4, (rows, height // 8, width // 8), generator=torch.Generator().manual_seed(0))
    mask = ids.repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)
    return {"image": (mask * 60)[..., None].expand(-1, -1, -1, 3).contiguous(), "mask": mask}


def varied(batch, settings, seed: int = 0):
    return augmented(batch, settings, 4, 255, Draws(seed, 0, range(len(batch["mask"]))))


def test_nothing_but_mirroring_where_scale_and_size_are_one():
    batch = scene()
    image, mask = varied(batch, PLAIN)
    plain = to_float_image(batch["image"])
    turned = 0
    for row in range(6):
        same = torch.equal(mask[row], batch["mask"][row].int())
        turned += not same
        expected = plain[row] if same else plain[row].flip(-1)
        torch.testing.assert_close(image[row], expected, atol=1e-5, rtol=0)
        assert same or torch.equal(mask[row], batch["mask"][row].flip(-1).int())
    assert 0 < turned < 6


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 64), (64, 40)])
def test_masks_follow_their_pictures_at_any_scale(height, width):
    settings = Augmentation(crop_px=24, distorted=False)
    image, mask = varied(scene(16, height, width), settings)
    assert image.shape == (16, 3, 24, 24) and mask.shape == (16, 24, 24)
    known = mask != 255
    seen = ((image[:, 0] + 1) * 127.5 / 60)[known]
    assert ((seen - mask[known]).abs() < 0.02).float().mean() > 0.7  # all but what lies between two blocks
    assert ((seen - mask[known]).abs() < 1.6).float().mean() > 0.97


def test_what_is_outside_of_a_small_picture_is_unknown_and_of_the_mean_colour():
    image, mask = varied(scene(), Augmentation(32, 0.5, 0.5, class_share=1.1))
    assert (mask[:, :16, :16] != 255).all() and (mask[:, 16:] == 255).all() and (mask[:, :, 16:] == 255).all()
    outside = image[:, :, 16:].movedim(1, -1)
    torch.testing.assert_close(outside, (torch.tensor(IMAGENET_MEAN) * 2 - 1).expand_as(outside))


def test_scales_are_from_half_to_twice_also_in_steps():
    batch = scene(64)
    for step, count in ((0.0, 17), (0.5, 4)):
        settings = Augmentation(32, scale_step=step, class_share=1.1, distorted=False)
        _, mask = varied(batch, settings)
        known = (mask != 255).any(2).sum(1).unique().tolist()
        assert min(known) < 20 and max(known) == 32
        assert len(known) >= 6 if not step else known == [16, 32], count


def test_a_crop_that_one_class_fills_is_drawn_again():
    mask = torch.zeros(40, 64, 64, dtype=torch.uint8)
    mask[:, :, 48:] = 1
    batch = {"image": torch.zeros(40, 64, 64, 3, dtype=torch.uint8), "mask": mask}

    def too_full(class_share: float) -> int:
        _, cut = varied(batch, Augmentation(32, 2.0, 2.0, class_share=class_share, distorted=False))
        return int(((cut == 0).float().mean((1, 2)) >= 0.75).sum())

    assert too_full(1.1) > 10 and too_full(0.75) < 5


def test_crops_that_cannot_be_mixed_and_unknown_pixels_are_taken_as_they_are():
    for value in (0, 255):
        mask = torch.full((3, 32, 32), value, dtype=torch.uint8)
        _, cut = varied(
            {"image": torch.zeros(3, 32, 32, 3, dtype=torch.uint8), "mask": mask}, Augmentation(16, 1.0, 2.0)
        )
        assert (cut == value).all()


def test_what_a_row_gets_does_not_depend_on_the_others():
    batch, settings = scene(4), Augmentation(24)
    image, mask = augmented(batch, settings, 4, 255, Draws(1, 2, range(4)))
    part = {name: value[2:] for name, value in batch.items()}
    other_image, other_mask = augmented(part, settings, 4, 255, Draws(1, 2, range(2, 4)))
    assert torch.equal(mask[2:], other_mask)
    torch.testing.assert_close(image[2:], other_image)
    assert not torch.equal(mask, augmented(batch, settings, 4, 255, Draws(1, 3, range(4)))[1])


def test_colours_change_each_half_of_the_time_and_stay_colours():
    image = torch.rand(200, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = distorted(image, Draws(0, 0, range(200)))
    assert found.min() >= 0 and found.max() <= 1
    same = ((found - image).abs().amax((1, 2, 3)) < 1e-5).float().mean()
    assert 0.02 < same < 0.15  # 1 / 16
    grey = torch.full((200, 3, 1, 1), 0.5)
    found = distorted(grey, Draws(0, 0, range(200)))[:, 0, 0, 0]
    assert 0.15 < found.min() < 0.3 and 0.8 < found.max() <= 1  # (0.5 -+ 32 / 255) * (1 -+ 0.5), of 200


@pytest.mark.parametrize(("saturation", "turn"), [(1.0, 0.0), (0.5, 0.1), (1.5, -0.1), (1.0, 0.5)])
def test_hue_and_saturation_are_those_of_hsv(saturation, turn):
    image = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    image[0, :, 0] = torch.tensor([[0, 1, 0.5, 1, 0, 1], [0, 1, 0.5, 0, 1, 1], [0, 1, 0.5, 0, 0, 0]])
    found = recoloured_by(image, torch.full((1, 1, 1, 1), saturation), torch.full((1, 1, 1, 1), turn))

    def expected(pixel: np.ndarray) -> tuple[float, ...]:
        hue, full, value = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((hue + turn) % 1, min(1, full * saturation), value)

    slow = np.apply_along_axis(expected, 0, image[0].double().numpy())
    np.testing.assert_allclose(found[0].numpy(), slow, atol=1e-5)


def pasted(batch, seed: int = 0, rows=None):
    num = len(batch["mask"])
    return copy_pasted(batch, 4, 255, Draws(seed, 0, range(num) if rows is None else rows))


def test_objects_of_another_picture_are_laid_on_about_half_of_them_with_their_masks():
    batch = scene(64)
    laid = pasted(batch)
    changed = laid["mask"] != batch["mask"]
    assert 0.35 < changed.flatten(1).any(1).float().mean() < 0.6, "half of the rows"
    apart = (laid["image"][..., 0].int() - laid["mask"].int() * 60).abs()  # its colour says the class of every pixel
    assert (apart[changed] == 0).float().mean() > 0.6 and (apart[~changed] == 0).float().mean() > 0.95, "but at edges"
    assert (laid["mask"][changed] != 0).all(), "the background is not laid on anything"
    assert laid["image"].dtype == torch.uint8 and laid["mask"].dtype == batch["mask"].dtype


def test_unknown_pixels_are_laid_on_nothing_and_may_be_covered():
    batch = scene(64)
    batch["mask"][1::2] = 255
    laid = pasted(batch)
    changed = laid["mask"] != batch["mask"]
    assert changed[1::2].any() and (laid["mask"][changed] != 255).all()


def test_pictures_of_two_folders_in_turns_get_objects_of_both():
    batch = scene(64)
    batch["mask"][::2] = batch["mask"][::2].clamp(max=1)
    batch["mask"][1::2] = torch.where(batch["mask"][1::2] > 0, 3, 0)
    laid = pasted(batch)["mask"]
    changed = laid != batch["mask"]
    got = {(row % 2, one) for row in range(64) for one in laid[row][changed[row]].tolist()}
    assert got == {(0, 1), (0, 3), (1, 1), (1, 3)}


def test_what_is_laid_follows_from_the_rows_own_numbers():
    batch = scene(8)
    assert torch.equal(pasted(batch)["mask"], pasted(batch)["mask"])
    assert not torch.equal(pasted(batch)["mask"], pasted(batch, seed=1)["mask"])


def test_a_crop_of_no_size_is_as_large_as_the_pictures():
    image, mask = varied(scene(4, 32, 64), Augmentation(crop_px=0))
    assert image.shape == (4, 3, 32, 32) and mask.shape == (4, 32, 32)
