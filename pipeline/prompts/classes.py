"""Which classes a prompt names: what a pair's mask is checked against, and how prompts are balanced over classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from models.labels import LabelSpace
from pipeline.prompts.synonyms import SYNONYMS
from pipeline.tables.schema import captions_of

SPOKEN = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
"""Class names that are no words, and what a text encoder knows them by."""
IRREGULAR_PLURALS = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "leaf": "leaves",
}  # fmt: skip
SHORTEST = 3
"""Letters of a singular at least: "to" is none of "toes"."""
_NO_SINGULAR = """
glasses eyeglasses spectacles specs goggles shades shorts tights pants underpants overalls jeans slacks briefs boxers
joggers sweats scrubs fatigues chaps waders breeches bottoms uppers lowers flats clothes braces stays goods woods greens
whites sweets fries leftovers remains stocks supplies electronics news means lots others ones works premises quarters
headquarters barracks customs rapids shallows plains falls heights outskirts surroundings arts politics series species
lens canvas atlas thermos draughts checkers shears tongs bellows gallows binoculars
"""
NO_SINGULAR = frozenset(_NO_SINGULAR.split())
"""Names that look like plurals, but whose singular is no word, or one that captions hold for other reasons: "short" is
none of "shorts", "other" none of "others"."""
MOST_TOLD = 8
"""Classes that are told by name."""
MOST_READ = 20_000
"""Captions, or pictures with theirs, that are looked at for what none of them names: some seconds."""
Some = TypeVar("Some")

_BEFORE = """
a an the this that these those some any no each every another other his her its their my your our one two three four
five six seven eight nine ten several many few of in on at by with without and or to from for as into onto near under
over above below beside behind between through around left right next up down off out is are was were has have there
while who which
"""
BEFORE_PHRASES = frozenset(_BEFORE.split())
"""Words that a name's own adjectives begin after."""
PHRASE = re.compile(r"[^\W\d_][\w'-]*|\S")


def classes_in_prompt(prompt: str, labels: LabelSpace) -> tuple[int, ...]:
    """Ids of the foreground classes whose names occur in `prompt` as whole words, ascending, each once.

    Case does not matter, plurals count ("two buses", "people", "knives"), and so does the singular of a name that is a
    plural ("a tree" for "trees"), unless another class is called so, or it is another word ("short" for "shorts"). The
    words of a longer name may be joined by spaces, hyphens or underscores ("traffic light", "traffic-lights"). Where
    names overlap the longest one wins: "a hot dog" names no dog. What people write instead of a name counts too:
    "potted plant" for VOC's "pottedplant", "a man on a bike" for person and bicycle (`pipeline.prompts.synonyms`).
    Class 0, the background, is never named.
    """
    pattern, ids = _matcher(labels.classes)
    found = (match.lastgroup for match in pattern.finditer(prompt.lower()))
    return tuple(sorted({ids[group] for group in found if group is not None}))


def objects_in_prompt(prompt: str, labels: LabelSpace) -> int:
    """How often `prompt` names a foreground class, as `classes_in_prompt` finds them: 3 for "a dog, two dogs and a
    cat"."""
    pattern, _ = _matcher(labels.classes)
    return sum(match.lastgroup is not None for match in pattern.finditer(prompt.lower()))


def phrases_of(texts: Iterable[str], labels: LabelSpace) -> dict[int, str]:
    """What captions of one picture call each class, by class id: its name with the adjectives before it ("yellow
    sandal", "small white dog"), in lower case.

    Adjectives begin after an article, preposition, number, verb in -ing or mark. Of several captions the longest phrase
    counts. A class of which one caption speaks in two ways ("a red car and a blue car") has none: which region is meant
    is not known.
    """
    pattern, ids = _matcher(labels.classes)
    found: dict[int, str] = {}
    unclear: set[int] = set()
    for text in (one.lower() for one in texts):
        said: dict[int, set[str]] = {}
        end = 0
        for match in pattern.finditer(text):
            words = PHRASE.findall(text[end : match.start()])
            begin = next((place for place, word in reversed([*enumerate(words, 1)]) if _ends_phrase(word)), 0)
            assert match.lastgroup is not None, "every alternative is a group"
            said.setdefault(ids[match.lastgroup], set()).add(" ".join([*words[begin:], match[0]]))
            end = match.end()
        unclear |= {one for one, phrases in said.items() if len(phrases) > 1}
        for one, phrases in said.items():
            found[one] = max(found.get(one, ""), *phrases, key=len)
    return {one: phrase for one, phrase in found.items() if one not in unclear}


def _ends_phrase(word: str) -> bool:
    return word in BEFORE_PHRASES or word.endswith("ing") or not word[0].isalpha()


def named_classes(row: Mapping[str, Any], labels: LabelSpace) -> set[int]:
    """The classes that a row of PAIR is said to show: those that its prompt asked for, or that its captions name."""
    asked = row.get("prompt_class_ids")
    return set(asked) if asked else {one for text in captions_of(row) for one in classes_in_prompt(text, labels)}


def never_named(texts: Sequence[str], labels: LabelSpace) -> str:
    """Says which classes none of these captions names; "" where there are none. Of many captions it looks at a part,
    `evenly` taken, and only until every class is named."""
    read = evenly(texts)
    named: set[int] = set()
    for text in read:
        named.update(classes_in_prompt(text, labels))
        if len(named) == labels.num_classes:
            return ""
    return unnamed(named, labels, taken(len(read), len(texts)))


def evenly(some: Sequence[Some]) -> Sequence[Some]:
    """All of them, or `MOST_READ` from the first to near the last, as far apart as can be; always the same."""
    return some if len(some) <= MOST_READ else [some[at * len(some) // MOST_READ] for at in range(MOST_READ)]


def taken(num_read: int, num: int) -> str:
    """Of how many `evenly` took how many, to show; "" where it took all."""
    return f"of {num_read:,}, evenly taken from {num:,}" if num_read < num else ""


def unnamed(named: set[int], labels: LabelSpace, part: str = "") -> str:
    """Says which classes are not among those that captions name; "" where there are none. `part`: of the captions that
    were looked at (`taken`)."""
    if not (left := [name for number, name in enumerate(labels.classes) if number and number not in named]):
        return ""
    return (
        f"no caption {f'{part}, ' * bool(part)}names {', '.join(left[:MOST_TOLD])}{' ...' * (len(left) > MOST_TOLD)} "
        f"({len(left)} of {labels.num_classes} classes): a teacher that is held to captions answers none of them in "
        "pictures whose captions name others, and no prompt asks for them. Are they called something else in the "
        "captions?"
    )


def spoken(name: str) -> str:
    """A class's name as people write it."""
    return SPOKEN.get(name, name.replace("_", " "))


@cache
def _matcher(classes: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, int]]:
    """One alternation over all names, longest first, and the class id of each of its groups."""
    # Groups are named, not numbered, because `lastgroup` then tells which name matched without a search.
    own = {name: number for number, one in enumerate(classes) if number for name in (one, spoken(one))}
    others = ((word, number) for number, one in enumerate(classes) if number for word in SYNONYMS.get(one, ()))
    named = [*own.items(), *((word, number) for word, number in dict(others).items() if word not in own)]
    known = {_joined(word) for word, _ in named}
    for name, number in own.items():
        single = [word for word in singulars(name) if _joined(word) not in known]
        meant = [*single, *(word for one in single for word in SYNONYMS.get(one, ()) if _joined(word) not in known)]
        known |= set(map(_joined, meant))
        named += [(word, number) for word in meant]
    longest_first = sorted(named, key=lambda pair: (-len(pair[0]), pair))
    ids = {f"name_{place}": number for place, (_, number) in enumerate(longest_first)}
    begun: dict[str, list[str]] = {}  # by the first letter, which leaves a few of hundreds of names to be tried
    for group, (name, _) in zip(ids, longest_first, strict=True):
        first = _joined(name)[:1]
        ahead = f"(?={re.escape(first)})" if first.isalnum() else ""
        begun.setdefault(ahead, []).append(f"(?P<{group}>{_name_pattern(name)})")
    names = "|".join(f"{ahead}(?:{'|'.join(some)})" for ahead, some in begun.items())
    return re.compile(rf"(?<!\w)(?:{names})(?!\w)"), ids


def singulars(name: str) -> tuple[str, ...]:
    """What a name may be in the singular, if it is a plural, by its last word: "fire trucks" -> ("fire truck",). Some
    are no words ("boxe"), which nobody writes. Those of `NO_SINGULAR` have none; "wine glasses" has."""
    name = name.lower().strip()
    if name in NO_SINGULAR:
        return ()
    last = re.split(r"[\s_-]+", name)[-1]
    first = name.removesuffix(last)
    if irregular := [one for one, several in IRREGULAR_PLURALS.items() if several == last]:  # "leave" is no "leaves"
        return tuple(f"{first}{one}" for one in irregular)
    found: list[str] = []
    if re.search(r"[^aeiou]ies$", last):
        found.append(f"{last[:-3]}y")
    if last.endswith("ves"):
        found += [f"{last[:-3]}f", f"{last[:-3]}fe"]
    if re.search(r"(?:[sxzo]|ch|sh)es$", last):
        found.append(last[:-2])
    if re.search(r"[^sui]s$", last):  # no grass, cactus, tennis
        found.append(last[:-1])
    return tuple(f"{first}{one}" for one in found if len(one) >= SHORTEST and re.search("[aeiouy]", one))


def _joined(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.lower().strip()))


def _name_pattern(name: str) -> str:
    """A regular expression for one class name in singular and plural; no capturing groups."""
    *first, last = re.split(r"[\s_-]+", name.lower().strip())
    forms = [f"{re.escape(last)}(?:e?s)?"]
    if last in IRREGULAR_PLURALS:
        forms.append(IRREGULAR_PLURALS[last])
    if re.search(r"[^aeiou]y$", last):
        forms.append(f"{re.escape(last[:-1])}ies")
    if re.search(r"\wfe?$", last):
        forms.append(f"{re.escape(re.sub('fe?$', '', last))}ves")
    return r"[\s_-]+".join([*map(re.escape, first), f"(?:{'|'.join(forms)})"])
