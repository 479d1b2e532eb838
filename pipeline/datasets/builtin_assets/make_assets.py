"""Makes the asset pack of `pipeline.datasets.builtin`: garments.npz, photographs/, photographs.json and NOTICE.md.

    python make_assets.py --fashion-mnist DIR --scikit-image DIR --scikit-learn DIR --lomiri DIR --scratch DIR \\
        --budgie DIR --gnome DIR --out DIR

Each folder holds the files themselves. Packages, versions and folders (`apt-get download NAME=VERSION`, then
`dpkg -x`; Debian 12 has them but where another release is named):

- dataset-fashion-mnist 0.0~git20200523.55506a9-1: `usr/share/datasets/fashion-mnist`, the four `*-ubyte.gz`
- scikit-image 0.26.0 (PyPI): `skimage/data`
- scikit-learn 1.9.1 (PyPI): `sklearn/datasets/images`
- lomiri-wallpapers-16.04 and lomiri-wallpapers-20.04 20.04.0-2: `usr/share/backgrounds`, copied into one
- scratch 1.4.0.6~dfsg1-6.1: `usr/share/scratch/Media/Backgrounds`
- budgie-backgrounds 3.0-1 (Debian 13): `usr/share/backgrounds/budgie`
- gnome-backgrounds 3.38.0-1 (Debian 11): `usr/share/backgrounds/gnome`

The same packages give the same bytes with the Pillow and NumPy of `constraints.txt`; other versions of Pillow may write
other JPEG files, and then also the scenes of version 1 would change.
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
    """One photograph of the pack.

    `box` is (left, upper, right, lower) as fractions of the original's sides; `versions` are those of the data set that
    use it. A photograph stays in its split in all versions, or tests would be trained on.
    """

    package: str
    file: str
    split: str
    surface: str
    title: str
    author: str
    licence: str
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    versions: tuple[int, ...] = (1, 2)


IMAGE, LEARN, LOMIRI = "scikit-image", "scikit-learn", "lomiri"
SCRATCH, BUDGIE, GNOME = "scratch", "budgie", "gnome"
ORIGINS = {
    IMAGE: "Python package scikit-image",
    LEARN: "Python package scikit-learn",
    LOMIRI: "Debian packages lomiri-wallpapers-16.04, -20.04",
    SCRATCH: "Debian package scratch (Media/Backgrounds)",
    BUDGIE: "Debian package budgie-backgrounds",
    GNOME: "Debian package gnome-backgrounds (3.38)",
}
BUDGIE_DEVELOPERS = "Budgie Desktop Developers (so the package names its authors)"


def _scratch(
    file: str, split: str, surface: str, box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
) -> Photograph:
    """Of Scratch's media library, whose pictures have no titles but their names."""
    title = Path(file).stem.replace("-", " ").replace("_", " ")
    author = "Massachusetts Institute of Technology (Scratch)"
    return Photograph(SCRATCH, file, split, surface, title, author, BY_SA_3, box, versions=(2,))


def _budgie(
    file: str, split: str, surface: str, title: str, box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
) -> Photograph:
    return Photograph(BUDGIE, file, split, surface, title, BUDGIE_DEVELOPERS, CC0, box, versions=(2,))


def _gnome(file: str, split: str, surface: str, author: str, licence: str) -> Photograph:
    return Photograph(GNOME, file, split, surface, Path(file).stem.replace("_", " "), author, licence, versions=(2,))


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
    _scratch("Indoors/kitchen.jpg", "train", "in a kitchen"),
    _scratch("Indoors/chalkboard.jpg", "train", "on a stage"),
    _scratch("Nature/flower-bed.jpg", "train", "in a flower bed"),
    _scratch("Nature/garden-rock.jpg", "train", "in a garden"),
    _scratch("Nature/gravel-desert.jpg", "train", "in a desert"),
    _scratch("Nature/hill.jpg", "train", "on a slope"),
    _scratch("Nature/pathway.jpg", "train", "on a path"),
    _scratch("Nature/tree.jpg", "train", "under a tree"),
    _scratch("Nature/water-and-rocks.jpg", "train", "in a stream"),
    _scratch("Nature/wave.jpg", "train", "in a wave"),
    _scratch("Outdoors/atom-playground.jpg", "train", "at a playground"),
    _scratch("Outdoors/bench-with-view.jpg", "train", "by a bench"),
    _scratch("Outdoors/brick-wall-and-stairs.jpg", "train", "by stairs"),
    _scratch("Outdoors/brick-wall2.jpg", "train", "at a wall"),
    _scratch("Outdoors/building-at-mit.jpg", "train", "at a building"),
    _scratch("Outdoors/driveway.jpg", "train", "in a park"),
    _scratch("Outdoors/houses.jpg", "train", "by a shed"),
    _scratch("Outdoors/village.jpg", "train", "in a village"),
    _scratch("Outdoors/mansion.jpg", "train", "at a mansion"),
    _scratch("Outdoors/train-tracks1.jpg", "train", "on train tracks"),
    _scratch("Sports/playing-field.jpg", "train", "on a playing field"),
    _budgie("abstract-spiral.jpg", "train", "on panels", "Abstract Spiral"),
    _budgie("beacon-street-sunset.jpg", "train", "over rooftops", "Beacon Street Sunset"),
    _budgie("extreme-desert-hike.jpg", "train", "on a dune", "Extreme Desert Hike", (0.42, 0.0, 1.0, 1.0)),
    _budgie("high-trestle-trail.jpg", "train", "on a bridge", "High Trestle Trail"),
    _budgie("oakland-zoo-otters.jpg", "train", "on a riverbank", "Oakland Zoo Otters"),
    _budgie("piazza-gae-aulenti.jpg", "train", "in an arch", "Piazza Gae Aulenti"),
    _budgie("roman-colosseum.jpg", "train", "at a ruin", "Roman Colosseum"),
    _budgie("singaporean-cityscape.jpg", "train", "by skyscrapers", "Singaporean Cityscape"),
    _gnome("ColdWarm.jpg", "train", "over treetops", "invisiblepower", CC0),
    _gnome("Dark_Ivy.jpg", "train", "on ivy", "Garrett LeSage", BY_SA_3),
    _scratch("Nature/lake.jpg", "validation", "by a pond"),
    _scratch("Outdoors/castle.jpg", "validation", "at a castle", (0.0, 0.0, 1.0, 0.78)),
    _scratch("Outdoors/hay_field.jpg", "validation", "on a hay field"),
    _scratch("Outdoors/parking-ramp.jpg", "validation", "on asphalt", (0.0, 0.5, 1.0, 1.0)),
    _scratch("Sports/basketball-court1-a.jpg", "validation", "on a basketball court"),
    _budgie("canyon-wren.jpg", "validation", "on a boulder", "Canyon Wren"),
    _gnome("Road.jpg", "validation", "over a road", "Joshua Welch", CC0),
    _scratch("Indoors/hall.jpg", "test", "in a hall"),
    _scratch("Nature/beach-malibu.jpg", "test", "on a beach"),
    _scratch("Nature/forest.jpg", "test", "in a forest"),
    _scratch("Nature/grand-canyon.jpg", "test", "at a canyon"),
    _scratch("Outdoors/boardwalk.jpg", "test", "on a boardwalk"),
    _scratch("Outdoors/city-with-water.jpg", "test", "by a city"),
    _scratch("Outdoors/hallway_outdoors.jpg", "test", "in a corridor"),
    _scratch("Outdoors/pool.jpg", "test", "by a pool"),
    _scratch("Outdoors/wooden-house.jpg", "test", "at a barn"),
    _scratch("Sports/tennis-backboard.jpg", "test", "on a tennis court"),
    _budgie("blue-periwinkle.jpg", "test", "among flowers", "Blue Periwinkle"),
    _budgie("casa-mila.jpg", "test", "in a courtyard", "Casa Mila"),
    _budgie("lake-sherburne.jpg", "test", "by a lake", "Lake Sherburne"),
    _budgie("perched-osprey.jpg", "test", "among branches", "Perched Osprey"),
    _budgie("tea-gardens.jpg", "test", "in a tea garden", "Amidst the Tea Gardens"),
    _gnome("SeaSunset.jpg", "test", "on the sea", "Sebastian Voortman", CC0),
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

| file | split | surface in captions | versions | title | author | licence | origin | other changes |
|---|---|---|---|---|---|---|---|---|
"""


def notice() -> str:
    """NOTICE.md: origin, author, licence and changes of everything in the pack."""
    lines = []
    for photo in PHOTOGRAPHS:
        change = "-" if photo.box == (0.0, 0.0, 1.0, 1.0) else "cropped"
        versions = ", ".join(map(str, photo.versions))
        cells = (f"{Path(photo.file).stem}.jpg", photo.split, photo.surface, versions, photo.title, photo.author,
                 photo.licence, f"{ORIGINS[photo.package]}, {photo.file}", change)  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |\n")
    return NOTICE_HEAD + "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("fashion-mnist", *ORIGINS, "out"):
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
        rows.append({"file": name, "split": photo.split, "surface": photo.surface, "versions": photo.versions})
    (out / "photographs.json").write_text(json.dumps(rows, indent=1) + "\n")
    (out / "NOTICE.md").write_text(notice())


if __name__ == "__main__":
    main()
