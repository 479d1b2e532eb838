"""How pictures are varied while a segmenter is trained, as mmsegmentation does it: scale, crop, mirror, colours.

All numbers of a row come from its own stream, so that a training is the same on any number of workers. Nothing waits
for the device.

Legend: B rows, H and W pixels, c pixels a side of the crop, K classes without id 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as functional
from torch import Tensor

from models.draws import Draws
from models.segmenter import IMAGENET_MEAN, per_channel
from pipeline.training.task import Tensors
from pipeline.training.tasks.pictures import mirrored, to_float_image

TRIES = 10
"""Crops that are drawn; the first one that no class fills is taken, the last one where all are filled."""
LOOKED_AT_PX = 128
"""Pixels a side of a crop that are looked at for that; of larger ones, every second, third or fourth."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32 / 255, 0.5, 0.5, 0.1
"""Most that each is changed by, up or down: shares of white, of itself, of itself, of a turn."""


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for each row.

    Attributes:
        crop_px: c; 0 takes the short side of the pictures.
        least_scale: the short side of a picture, in crops.
        greatest_scale: the same.
        scale_step: between scales; 0 takes any.
        class_share: of a crop's known pixels that one class may have.
        distorted: colours too.
    """

    crop_px: int = 512
    least_scale: float = 0.5
    greatest_scale: float = 2.0
    scale_step: float = 0.0
    class_share: float = 0.75
    distorted: bool = True


def augmented(
    batch: Tensors, settings: Augmentation, num_outputs: int, ignore_index: int, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Varied pictures and masks.

    Args:
        batch: "image" (B, H, W, 3) uint8 and "mask" (B, H, W) class ids.
        settings: what is drawn.
        num_outputs: K + 1.
        ignore_index: id of unknown pixels, and of what is outside of a picture that is smaller than the crop.
        draws: of the rows.

    Returns:
        (B, 3, c, c) float32 in [-1, 1] and (B, c, c) class ids.
    """
    batch = mirrored(batch, draws)
    mask = batch["mask"].int()
    settings = settings if settings.crop_px else replace(settings, crop_px=min(mask.shape[-2:]))
    size = torch.tensor(mask.shape[-2:]).to(mask.device, non_blocking=True)
    scaled = _scaled(size, settings, draws)  # (B, 2)
    origins = (draws.uniform((TRIES, 2)) * ((scaled - settings.crop_px).clamp(min=0) + 1)[:, None]).floor()
    slots = torch.where((mask < 0) | (mask >= num_outputs), num_outputs, mask)  # unknown pixels last
    origin = _first_mixed(slots, origins, scaled, settings, num_outputs)
    rows, columns = _places(origin[:, None], scaled, settings.crop_px)
    inside = (rows < scaled[:, None, :1])[..., :, None] & (columns < scaled[:, None, 1:])[..., None, :]
    cut = torch.where(inside, _picked(mask, rows, columns, scaled), ignore_index)[:, 0]
    grid = torch.stack(
        torch.broadcast_tensors(
            (2 * (columns[:, 0] + 0.5) / scaled[:, 1:] - 1)[:, None, :],
            (2 * (rows[:, 0] + 0.5) / scaled[:, :1] - 1)[:, :, None],
        ),
        dim=-1,
    )
    image = to_float_image(batch["image"])
    image = functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
    if settings.distorted:
        image = distorted((image + 1) / 2, draws) * 2 - 1
    return torch.where(inside, image, per_channel(IMAGENET_MEAN, image.device) * 2 - 1), cut


def copy_pasted(batch: Tensors, num_outputs: int, ignore_index: int, draws: Draws) -> Tensors:
    """Half of the rows get objects of another row of the batch laid on them (Simple Copy-Paste, CVPR 2021, for masks
    without instances): each class of it besides id 0 half of the time, all of them where none was drawn; mirrored half
    of the time, half to one and a half times as large, moved by up to half a side. The other row is any one, so that it
    may come from each folder of a set; on several workers it is one of the same worker.

    Args:
        batch: "image" (B, H, W, 3) uint8 and "mask" (B, H, W) class ids.
        num_outputs: K + 1.
        ignore_index: id of unknown pixels, which are never laid on others.
        draws: of the rows.

    Returns:
        The same columns.
    """
    image, mask = batch["image"], batch["mask"]
    rows, (height, width) = len(mask), mask.shape[-2:]
    pasted, flip, scale, down, right, other = draws.uniform((6,)).unbind(1)
    sign, grown = torch.where(flip < 0.5, -1.0, 1.0), 0.5 + scale
    # Not the next one: rows of two folders with equal shares come in turns.
    others = (torch.arange(rows, device=mask.device) + 1 + (other * (rows - 1)).long()) % rows
    # Where each pixel's paste comes from in the other row, from -1 to 1 over a side.
    y = (torch.arange(height, device=mask.device) + 0.5) / height * 2 - 1
    x = (torch.arange(width, device=mask.device) + 0.5) / width * 2 - 1
    y = (y - (2 * down - 1)[:, None]) / grown[:, None]
    x = sign[:, None] * (x - (2 * right - 1)[:, None]) / grown[:, None]
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
    donor = mask[others]
    slots = torch.where((donor == ignore_index) | (donor >= num_outputs), 0, donor.long())
    present = torch.zeros(rows, num_outputs, dtype=torch.bool, device=mask.device).scatter_(1, slots.flatten(1), True)
    chosen = present & (draws.uniform((num_outputs,)) < 0.5)
    chosen[:, 0] = present[:, 0] = False
    chosen = torch.where(chosen.any(1, keepdim=True), chosen, present) & (pasted < 0.5)[:, None]
    laid = chosen.gather(1, slots.flatten(1)).view_as(mask).float()[:, None]
    # Outside of the picture lies nothing. Pixels are those whose nearest in the other picture is laid.
    near = functional.grid_sample(laid, grid, mode="nearest", align_corners=False)[:, 0] > 0.5
    ids = functional.grid_sample(slots.float()[:, None], grid, mode="nearest", align_corners=False)[:, 0]
    picture = image[others].permute(0, 3, 1, 2).float()
    colours = functional.grid_sample(picture, grid, padding_mode="border", align_corners=False).round().clamp(0, 255)
    return {
        **batch,
        "image": torch.where(near[..., None], colours.permute(0, 2, 3, 1).to(image.dtype), image),
        "mask": torch.where(near, ids.to(mask.dtype), mask),
    }


def distorted(image: Tensor, draws: Draws) -> Tensor:
    """Brightness, contrast, saturation and hue of each (3, H, W) in [0, 1] changed, each one of them half of the time;
    contrast before or after the other two (mmsegmentation's `PhotoMetricDistortion`, which rounds in between)."""
    drawn = draws.uniform((9, 1, 1, 1)).unbind(1)
    brightness, contrast, saturation, hue = (
        torch.where(chosen < 0.5, 2 * amount - 1, 0.0) for chosen, amount in zip(drawn[:4], drawn[4:8], strict=True)
    )
    early = drawn[8] < 0.5

    def contrasted(image: Tensor) -> Tensor:
        return (image * (1 + CONTRAST * contrast)).clamp(0, 1)

    image = (image + BRIGHTNESS * brightness).clamp(0, 1)
    image = torch.where(early, contrasted(image), image)
    image = recoloured_by(image, 1 + SATURATION * saturation, HUE * hue)
    return torch.where(early, image, contrasted(image))


def recoloured_by(image: Tensor, saturation: Tensor, turn: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] with its saturation in HSV multiplied and its hue turned; (B, 1, 1, 1) both, hue in
    turns."""
    value = image.amax(1, keepdim=True)
    spread = value - image.amin(1, keepdim=True)
    red, green, blue = image.split(1, dim=1)
    some = spread.clamp(min=1e-6)
    sixths = torch.where(value == green, 2 + (blue - red) / some, 4 + (red - green) / some)
    sixths = torch.where(value == red, (green - blue) / some, sixths) + 6 * turn
    full = (spread / value.clamp(min=1e-6) * saturation).clamp(max=1)
    far = (torch.tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1).to(image.device, non_blocking=True) + sixths) % 6
    return value * (1 - full * torch.minimum(far, 4 - far).clamp(0, 1))


def _scaled(size: Tensor, settings: Augmentation, draws: Draws) -> Tensor:
    """(B, 2) whole heights and widths that pictures of one size are scaled to."""
    scale = draws.uniform() * (settings.greatest_scale - settings.least_scale)
    if step := settings.scale_step:
        count = round((settings.greatest_scale - settings.least_scale) / step) + 1
        scale = (scale * count / (count - 1) / step).floor() * step
    factor = (settings.least_scale + scale) * settings.crop_px / size.min()
    return (factor[:, None] * size + 0.5).floor()


def _first_mixed(slots: Tensor, origins: Tensor, scaled: Tensor, settings: Augmentation, num_outputs: int) -> Tensor:
    """(B, 2): of the origins (B, T, 2) the first whose crop has several classes and none too much of it."""
    every = -(-settings.crop_px // LOOKED_AT_PX)
    rows, columns = (places[..., ::every] for places in _places(origins, scaled, settings.crop_px))
    inside = (rows < scaled[:, None, :1])[..., :, None] & (columns < scaled[:, None, 1:])[..., None, :]
    seen = torch.where(inside, _picked(slots, rows, columns, scaled), num_outputs).flatten(2).long()
    counts = torch.zeros(*seen.shape[:2], num_outputs + 1, device=seen.device)
    counts = counts.scatter_add_(2, seen, torch.ones_like(seen, dtype=counts.dtype))[..., :-1]
    mixed = ((counts > 0).sum(-1) > 1) & (counts.amax(-1) < settings.class_share * counts.sum(-1))
    mixed[:, -1] = True
    first = mixed.int().argmax(1)
    return origins.gather(1, first[:, None, None].expand(-1, 1, 2))[:, 0]


def _places(origins: Tensor, scaled: Tensor, crop_px: int) -> tuple[Tensor, Tensor]:
    """Origins (B, T, 2) -> rows and columns of crops in the scaled picture, (B, T, c) each."""
    steps = torch.arange(crop_px, device=scaled.device)
    return origins[..., :1] + steps, origins[..., 1:] + steps


def _picked(ids: Tensor, rows: Tensor, columns: Tensor, scaled: Tensor) -> Tensor:
    """(B, H, W) at rows and columns (B, T, c) of the scaled picture: the nearest, (B, T, c, c)."""
    height, width = ids.shape[-2:]
    down = ((rows + 0.5) * height / scaled[:, None, :1]).long().clamp(max=height - 1)
    right = ((columns + 0.5) * width / scaled[:, None, 1:]).long().clamp(max=width - 1)
    row = torch.arange(len(ids), device=ids.device)[:, None, None, None]
    return ids[row, down[..., :, None], right[..., None, :]]
