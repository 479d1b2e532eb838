"""Mask refinement: specks too small to be objects take the class around them.

JoDiffusion, "Mask optimisation": classes in ascending order, components in raster order; each one that is too small
takes the majority class of its ring, in place, so that later components and later classes see it. The reference works
on the whole image once a component. Here the image is labelled once for all classes; as an absorption only ever changes
whole components, the rest is played on the graph of small components and their rings. The result is the same, exactly.

`H`, `W` height and width, `B` masks. A *code* is class id + 1, and 0 where no class is: outside the image, or ignored.
"""

from __future__ import annotations

from itertools import compress

import cc3d
import numpy as np
from pydantic import Field

from pipeline.base.config import Config


def refine_masks(
    batch: dict[str, np.ndarray], *, min_area_px: int, ignore_index: int, fill_holes_px: int = 0
) -> dict[str, np.ndarray]:
    """Stage: refines `mask`, (B, H, W) uint8 or uint16, and adds `changed_pixels`, (B,) int32; other columns pass on.

    Options and errors as in `refine_mask`.
    """
    masks = batch["mask"]
    if masks.ndim != 3:
        raise ValueError(f"the column `mask` must be (B, H, W), got shape {masks.shape}")
    options = {"min_area_px": min_area_px, "ignore_index": ignore_index, "fill_holes_px": fill_holes_px}
    refined = np.empty_like(masks)
    for index, mask in enumerate(masks):
        refined[index] = refine_mask(mask, **options)
    changed = np.count_nonzero(refined != masks, axis=(1, 2)).astype(np.int32)
    return {**batch, "mask": refined, "changed_pixels": changed}


def refine_mask(mask: np.ndarray, *, min_area_px: int, ignore_index: int = 255, fill_holes_px: int = 0) -> np.ndarray:
    """Absorbs the specks of one mask (JoDiffusion, "Mask optimisation"; reference behaviour, exact).

    `mask`: (H, W) uint8 or uint16 class ids, 0 is background; left as it is. Returns a new array like it.
    `min_area_px`: a 4-connected component of a class with fewer pixels takes the most frequent class of its 8-neighbour
    ring, background included, ties to the smallest id; 0 turns this off. The paper finds 20 best on VOC.
    `ignore_index`: never absorbed, never a vote; a component that has no votes stays. The reference has no such value:
    a number that no pixel holds, such as -1, gives its behaviour.
    `fill_holes_px`: ours, not in the paper. Afterwards, a background component with fewer pixels that does not touch
    the image border is absorbed by the same rule; 0 turns this off.
    Raises ValueError for another shape or type and for a negative number of pixels.
    """
    if mask.ndim != 2 or mask.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"a mask must be (H, W) of uint8 or uint16, got shape {mask.shape} of {mask.dtype}")
    if min_area_px < 0 or fill_holes_px < 0:
        raise ValueError(f"areas must be 0 or more pixels (0 is off), got {min_area_px=}, {fill_holes_px=}")
    refined = mask.copy()
    if min_area_px:
        _absorb(refined, min_area_px, ignore_index, holes=False)
    if fill_holes_px:
        _absorb(refined, fill_holes_px, ignore_index, holes=True)
    return refined


def _absorb(mask: np.ndarray, min_area_px: int, ignore_index: int, *, holes: bool) -> None:
    """One pass over `mask`, in place: over the enclosed background if `holes`, else over every class but background."""
    codes = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), np.uint16 if mask.dtype == np.uint8 else np.uint32)
    np.add(mask, 1, out=codes[1:-1, 1:-1], dtype=codes.dtype)
    codes[1:-1, 1:-1][mask == ignore_index] = 0
    # Numbered in raster order of their first pixels, which is the order in which the reference visits them.
    labels = cc3d.connected_components(codes, connectivity=4)

    # By runs of equal labels, not by pixels: counting and gathering then costs about a sixth on masks of regions.
    flat = labels.ravel()
    starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(starts, append=flat.size)
    run_labels = flat[starts]
    code = np.zeros(int(run_labels.max(initial=0)) + 1, np.int64)
    code[run_labels] = codes.ravel()[starts]
    area_px = np.bincount(run_labels, lengths, len(code)).astype(np.int64)
    is_small = (area_px < min_area_px) & ((code == 1) if holes else (code > 1))
    if holes:
        is_small[labels[[1, -2]]] = is_small[labels[:, [1, -2]]] = False
    kept = is_small[run_labels]
    starts, lengths = starts[kept], lengths[kept]
    pixels = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    bounds, *ring = _rings(labels, pixels, len(code))

    # Most specks lie inside one large component: nothing else can see them, so they need no turn.
    contested = np.flatnonzero(is_small & (np.diff(bounds) > 0))
    if contested.size:
        first, last = (pick.reduceat(ring[1], bounds[contested]) for pick in (np.minimum, np.maximum))
        lonely = (first == last) & ~is_small[first]
        code[contested[lonely]] = code[first[lonely]]
        contested = contested[~lonely]
    if contested.size:
        turns = [1] if holes else np.unique(code[code > 1]).tolist()
        lists = (column.tolist() for column in (code, area_px, bounds, *ring))
        code = np.array(_play(turns, contested.tolist(), min_area_px, *lists))
    rows, columns = np.divmod(pixels, labels.shape[1])
    mask[rows - 1, columns - 1] = code[flat[pixels]] - 1


def _rings(labels: np.ndarray, pixels: np.ndarray, num_labels: int) -> tuple[np.ndarray, ...]:
    """The 8-neighbour rings of the components that `pixels`, (N,) int64 flat indices, make up.

    Returns bounds, pixels, labels, straight: the ring of component k is `[bounds[k]:bounds[k + 1]]` of the other three,
    empty if k is not among `pixels`; `straight` says that a ring pixel shares an edge with the component.
    """
    flat, width = labels.ravel(), labels.shape[1]
    offsets = np.array([-width, -1, 1, width, -width - 1, -width + 1, width - 1, width + 1])
    own, near = flat[pixels].astype(np.int64)[:, None], pixels[:, None] + offsets
    near_labels = flat[near]
    # One sort brings the several sights of a ring pixel together, a straight one first.
    sights = ((own * flat.size + near) << 1) + (np.arange(8) >= 4)
    sights = np.sort(sights[(near_labels != own) & (near_labels != 0)])
    sights = sights[np.diff(sights >> 1, prepend=-1) != 0]
    owners, ring_pixels = np.divmod(sights >> 1, flat.size)
    bounds = np.searchsorted(owners, np.arange(num_labels + 1))
    return bounds, ring_pixels, flat[ring_pixels], sights & 1 == 0


def _play(
    turns: list[int], small: list[int], min_area_px: int, code: list[int], area_px: list[int],
    bounds: list[int], ring_pixels: list[int], ring_labels: list[int], straight: list[bool],
) -> list[int]:  # fmt: skip
    """Plays the turns of the classes over the `small` components; returns the code of each label as it then stands."""
    waiting: dict[int, list[int]] = {}
    for label in small:
        waiting.setdefault(code[label], []).append(label)
    for turn in turns:
        seen: set[int] = set()
        for seed in sorted(waiting.get(turn, ())):
            if seed in seen:
                continue
            members, votes = [seed], [code[label] for label in ring_labels[bounds[seed] : bounds[seed + 1]]]
            if turn in votes:
                # Earlier absorptions may have joined components: gather what is one component of this class by now.
                joined = {seed}
                ring: dict[int, int] = {}
                for member in members:
                    span = slice(bounds[member], bounds[member + 1])
                    ring.update(zip(ring_pixels[span], ring_labels[span], strict=True))
                    touching = {label for label in compress(ring_labels[span], straight[span]) if code[label] == turn}
                    members += touching - joined
                    joined |= touching
                seen |= joined
                if sum(area_px[member] for member in members) >= min_area_px:
                    continue
                votes = [code[label] for label in ring.values() if label not in joined]
            if votes:
                winner = max(sorted(set(votes)), key=votes.count)
                for member in members:
                    code[member] = winner
                waiting.setdefault(winner, []).extend(members)
    return code


class Refine(Config):
    """Mask optimisation (JoDiffusion, section "Mask optimization")."""

    min_area_px: int = Field(20, ge=0)
    """Smaller components take the class around them; 0 turns refinement off. Paper: 20 at 512x512."""
    fill_holes_px: int = Field(0, ge=0)
    """Enclosed holes of background below this area take the class around them; 0 leaves them, as the paper does."""
