"""Sheets show every picture whole, where a person expects it."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.pictures.sheets import TILE_PX, row_of_tiles, sheet, tile

RED, BLUE, WHITE = (200, 0, 0), (0, 0, 200), (255, 255, 255)


def plain(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (10, 40), (40, 10), (600, 300), (1, 2000)])
def test_a_tile_is_the_image_above_its_mask_as_large_as_fits_and_centred(height: int, width: int) -> None:
    made = tile(plain(height, width, RED), plain(height, width, BLUE))

    assert made.shape == (2 * TILE_PX, TILE_PX, 3) and made.dtype == np.uint8
    for half, colour in ((made[:TILE_PX], RED), (made[TILE_PX:], BLUE)):
        rows, columns = np.nonzero((half == colour).all(-1))
        found = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert max(found) == TILE_PX and len(rows) == found[0] * found[1]
        assert found[0] / found[1] == pytest.approx(height / width, rel=0.05) or min(found) == 1
        for low, high in ((rows.min(), rows.max()), (columns.min(), columns.max())):
            assert abs(low - (TILE_PX - 1 - high)) <= 1, "centred"
        assert (half[(half != colour).any(-1)] == WHITE).all()


def test_small_pictures_are_enlarged_without_new_colours() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    made = tile(picture, picture)
    step = TILE_PX // 4
    np.testing.assert_array_equal(made[step // 2 : TILE_PX : step, step // 2 :: step], picture)
    np.testing.assert_array_equal(made[:TILE_PX], made[TILE_PX:])


def test_masks_get_no_new_colours_however_small_they_become() -> None:
    colours = np.where(np.indices((900, 900)).sum(0)[..., None] % 2, RED, BLUE).astype(np.uint8)
    made = tile(colours, colours)
    assert {tuple(colour) for colour in made[TILE_PX:].reshape(-1, 3).tolist()} <= {RED, BLUE}
    assert {tuple(colour) for colour in made[:TILE_PX].reshape(-1, 3).tolist()} - {RED, BLUE}, "images are smoothed"


def test_tiles_stand_side_by_side_with_white_between_them() -> None:
    tiles = [plain(2 * TILE_PX, TILE_PX, colour) for colour in (RED, BLUE, RED)]
    made = row_of_tiles(tiles)
    assert made.shape == (2 * TILE_PX, 3 * TILE_PX + 2 * 4, 3)
    assert [tuple(made[0, x]) for x in (0, TILE_PX, TILE_PX + 3, TILE_PX + 4, -1)] == [RED, WHITE, WHITE, BLUE, RED]
    np.testing.assert_array_equal(row_of_tiles(tiles[:1]), tiles[0])


def test_a_sheet_has_a_line_for_each_batch_of_pictures() -> None:
    first, second = (np.stack([plain(2, 3, colour) for colour in colours]) for colours in ((RED, BLUE), (BLUE, RED)))
    made = sheet([first, second])
    assert made.shape == (4, 6, 3)
    assert [tuple(made[y, x]) for y in (0, 2) for x in (0, 3)] == [RED, BLUE, BLUE, RED]
