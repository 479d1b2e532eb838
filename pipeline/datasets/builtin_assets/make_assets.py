"""Makes the asset pack of `pipeline.datasets.builtin`: garments.npz, photographs/, photographs.json and NOTICE.md.

    python make_assets.py --fashion-mnist DIR --scikit-image DIR --scikit-learn DIR --lomiri DIR --out DIR

The folders are those that hold the files themselves: the four `*-ubyte.gz` of Debian's dataset-fashion-mnist, `data`
of scikit-image, the `datasets/images` of scikit-learn, and the `backgrounds` of Debian's lomiri-wallpapers-16.04 and
lomiri-wallpapers-20.04, copied into one.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

SPLITS = ("train", "validation", "test")
FASHION_TO_GARMENT = {0: 1, 1: 2, 3: 3, 4: 4, 5: 5, 7: 6, 8: 7, 9: 8}
"""Fashion-MNIST label -> class id of GARMENTS. Pullover (2) and shirt (6) are left out: too like T-shirt and coat."""
PER_CLASS = {"train": 400, "validation": 60, "test": 120}
PHOTOGRAPH_SIDE_PX = 384
CC0 = "CC0 1.0 (https://creativecommons.org/publicdomain/zero/1.0/)"
BY_2 = "CC BY 2.0 (https://creativecommons.org/licenses/by/2.0/)"
BY_4 = "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)"
BY_SA_3 = "CC BY-SA 3.0 (https://creativecommons.org/licenses/by-sa/3.0/)"
BY_SA_4 = "CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)"


class Photograph(NamedTuple):
    """One photograph of the pack. `box` is (left, upper, right, lower) as fractions of the original's sides."""

    package: str
    file: str
    split: str
    surface: str
    title: str
    author: str
    licence: str
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


IMAGE, LEARN, LOMIRI = "scikit-image", "scikit-learn", "lomiri"
PHOTOGRAPHS = (
    Photograph(IMAGE, "brick.png", "train", "on bricks", "Bricks25", "CC0Textures", CC0),
    Photograph(IMAGE, "gravel.png", "train", "on gravel", "Gravel04", "CC0Textures", CC0),
    Photograph(IMAGE, "chelsea.png", "train", "on fur", "Chelsea the cat", "Stéfan van der Walt", CC0),
    Photograph(IMAGE, "rocket.jpg", "train", "in a night sky", "Launch photo of DSCOVR on Falcon 9", "SpaceX",
               "public domain (released by SpaceX)"),
    Photograph(IMAGE, "hubble_deep_field.jpg", "train", "among stars", "Hubble eXtreme Deep Field", "NASA",
               "public domain (NASA)"),
    Photograph(LEARN, "china.jpg", "train", "at a temple", "china (flickr 6061409035)", "danielbuechele", BY_2),
    Photograph(LEARN, "flower.jpg", "train", "on petals", "flower (flickr 6056698931)",
               "vultilion (the package's README also credits danielbuechele)", BY_2),
    Photograph(LOMIRI, "Picture_1A_by_freespace.jpg", "train", "on brushes", "Picture 1A", 'Trevor "Freespace"', BY_4),
    Photograph(LOMIRI, "Dragonfly_by_Bolly.jpg", "train", "on leaves", "Dragonfly", "Bolly", BY_SA_4),
    Photograph(LOMIRI, "aitzgorri_by_Aitzol_Berasategi.jpg", "train", "on a hill", "Aitzgorri",
               "Aitzol Berasategi", BY_4),
    Photograph(LOMIRI, "life_by_Aitzol_Berasategi.jpg", "train", "on rocks", "Life", "Aitzol Berasategi", BY_4),
    Photograph(LOMIRI, "sunset_by_Aitzol_Berasategi.jpg", "train", "at sunset", "Sunset", "Aitzol Berasategi", BY_4),
    Photograph(IMAGE, "coffee.png", "validation", "on a table", "Coffee cup", "Rachel Michetti", CC0),
    Photograph(LOMIRI, "seeding_by_Clements_Engelhardt.jpg", "validation", "on a meadow", "Seeding",
               "Clemens Engelhardt", CC0),
    Photograph(LOMIRI, "friends_by_Aitzol_Berasategi.jpg", "validation", "at a wooden house", "Friends",
               "Aitzol Berasategi", BY_4),
    Photograph(LOMIRI, "greentock_by_Peter_Nerlich.jpg", "validation", "on a clock", "Greentock", "Peter Nerlich",
               BY_SA_4),
    Photograph(IMAGE, "grass.png", "test", "on grass", "Grass texture", "linolafett (DeviantArt)", CC0),
    Photograph(LOMIRI, "Picture_0B_by_freespace.jpg", "test", "on stone", "Picture 0B", 'Trevor "Freespace"', BY_4),
    Photograph(LOMIRI, "Bridge_by_Sander_Klootwijk.jpg", "test", "in the sky", "Bridge", "Sander Klootwijk", BY_SA_4),
    Photograph(LOMIRI, "picosdeeuropa_by_Aitzol_Berasategi.jpg", "test", "on a mountain", "Picos de Europa",
               "Aitzol Berasategi", BY_4),
    Photograph(LOMIRI, "Kleiber_by_Lukas_Baubkus.jpg", "test", "on bark", "Kleiber", "Lukas Baubkus", BY_SA_3,
               (0.0, 0.0, 0.41, 1.0)),
)  # fmt: skip


def read_idx(path: Path, header_bytes: int) -> np.ndarray:
    """The uint8 payload of one gzipped IDX file, flat."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header_bytes)


def is_clean(picture: np.ndarray) -> bool:
    """Whether a (28, 28) picture is one piece, bright enough, with a closed outline, neither tiny nor all of it."""
    silhouette = picture > 24
    area = int(silhouette.sum())
    if not 130 <= area <= 640 or ndimage.label(silhouette, np.ones((3, 3)))[1] != 1:
        return False
    # An open crack or a ragged edge is what a closing would add: the garment is then darker than the threshold there.
    added = ndimage.binary_closing(np.pad(silhouette, 3), np.ones((3, 3))).sum() - area
    # Labels and prints that are nearly black cut holes and a dark picture has no shading to recolour.
    return bool(added <= 0.06 * area and np.percentile(picture[silhouette], 30) >= 60)


def make_garments(source: Path) -> dict[str, np.ndarray]:
    """`pictures` (N, 28, 28), `class_ids` (N,) and `splits` (N,), an index into SPLITS; uint8, in source order."""
    columns: dict[str, list[np.ndarray]] = {"pictures": [], "class_ids": [], "splits": []}
    for part, splits in (("train", ("train", "validation")), ("t10k", ("test",))):
        pictures = read_idx(source / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels = read_idx(source / f"{part}-labels-idx1-ubyte.gz", 8)
        for label, class_id in FASHION_TO_GARMENT.items():
            clean = (i for i in np.flatnonzero(labels == label) if is_clean(pictures[i]))
            for split in splits:
                chosen = np.stack([pictures[next(clean)] for _ in range(PER_CLASS[split])])
                columns["pictures"].append(chosen)
                columns["class_ids"].append(np.full(len(chosen), class_id, np.uint8))
                columns["splits"].append(np.full(len(chosen), SPLITS.index(split), np.uint8))
    return {name: np.concatenate(values) for name, values in columns.items()}


def make_photograph(photograph: Photograph, source: Path, target: Path) -> None:
    """Crops to `box`, scales the longest side to PHOTOGRAPH_SIDE_PX and writes an RGB JPEG."""
    with Image.open(source) as picture:
        rgb = picture.convert("RGB")
    width, height = rgb.size
    left, upper, right, lower = photograph.box
    rgb = rgb.crop((round(left * width), round(upper * height), round(right * width), round(lower * height)))
    rgb.thumbnail((PHOTOGRAPH_SIDE_PX, PHOTOGRAPH_SIDE_PX), Image.Resampling.LANCZOS)
    rgb.save(target, quality=90, optimize=True)


NOTICE_HEAD = f"""# Origin and licences of the built-in assets

`make_assets.py` made these files; `pipeline/datasets/builtin.py` composes scenes from them.

## garments.npz

A subset of Fashion-MNIST (Han Xiao, Kashif Rasul, Roland Vollgraf), from Debian's package dataset-fashion-mnist. MIT
(Expat) licence, below. Changes: eight of ten classes, items with a clean silhouette only, pixels as they were. Train
and validation are different items of its training part, test is of its test part.

> Copyright (c) 2017 Zalando SE, https://tech.zalando.com
>
> Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
> documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
> rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to
> permit persons to whom the Software is furnished to do so, subject to the following conditions:
>
> The above copyright notice and this permission notice shall be included in all copies or substantial portions of
> the Software.
>
> THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO
> THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
> AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT,
> TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
> SOFTWARE.

## photographs/

Every photograph was scaled down to at most {PHOTOGRAPH_SIDE_PX} px on its longest side and saved as JPEG; other changes
are in the table. Each keeps its own licence; pictures under a ShareAlike licence stay under it here and when changed.

| file | split | surface in captions | title | author | licence | origin | other changes |
|---|---|---|---|---|---|---|---|
"""


def notice() -> str:
    """NOTICE.md: origin, author, licence and changes of everything in the pack."""
    lines = []
    origins = {
        IMAGE: "Python package scikit-image",
        LEARN: "Python package scikit-learn",
        LOMIRI: "Debian packages lomiri-wallpapers-16.04, -20.04",
    }
    for photo in PHOTOGRAPHS:
        change = "-" if photo.box == (0.0, 0.0, 1.0, 1.0) else "cropped"
        cells = (f"{Path(photo.file).stem}.jpg", photo.split, photo.surface, photo.title, photo.author, photo.licence,
                 f"{origins[photo.package]}, {photo.file}", change)  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |\n")
    return NOTICE_HEAD + "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("fashion-mnist", IMAGE, LEARN, LOMIRI, "out"):
        parser.add_argument(f"--{name}", type=Path, required=True, dest=name)
    folders: dict[str, Path] = vars(parser.parse_args())
    out = folders["out"]
    (out / "photographs").mkdir(parents=True, exist_ok=True)
    garments = make_garments(folders["fashion-mnist"])
    np.savez_compressed(
        out / "garments.npz",
        pictures=garments["pictures"],
        class_ids=garments["class_ids"],
        splits=garments["splits"],
    )
    rows = []
    for photo in PHOTOGRAPHS:
        name = f"{Path(photo.file).stem}.jpg"
        make_photograph(photo, folders[photo.package] / photo.file, out / "photographs" / name)
        rows.append({"file": name, "split": photo.split, "surface": photo.surface})
    (out / "photographs.json").write_text(json.dumps(rows, indent=1) + "\n")
    (out / "NOTICE.md").write_text(notice())


if __name__ == "__main__":
    main()
