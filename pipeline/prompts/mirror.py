"""What a prompt says of a mirrored picture."""

from __future__ import annotations

import re
from collections.abc import Mapping

SIDES = {"left": "right"}
"""Words that change places where a picture is mirrored."""
WORD = re.compile(r"[^\W\d_]+")
NO_SIDES = re.compile(
    r"(a|al|b|birth|copy|down|f|forth|out|up|\w*w)right\w*|right(s|ly|eous\w*|ful\w*)|(c|copy)left\w*|leftovers?"
)
"""Common words that hold "left" or "right" and say no side, such as "bright" and "upright"."""


def mirrored_prompt(prompt: str, words: Mapping[str, str]) -> str:
    """The prompt of a mirrored picture: words of a side become their opposite, "left of" becomes "right of".

    Args:
        prompt: of the picture as it is.
        words: pairs of opposites, in lower case; each way round. A word that stays is its own opposite.

    Raises:
        ValueError: a word that holds one of `words` and is not one (nor of NO_SIDES), such as "leftmost": what it
            becomes is not known.
    """
    both = {**words, **{other: word for word, other in words.items()}}

    def opposite(match: re.Match[str]) -> str:
        word = match[0]
        found = both.get(word.lower())
        if found is None:
            hidden = next((one for one in both if one in word.lower()), None)
            if hidden and not NO_SIDES.fullmatch(word.lower()):
                raise ValueError(f"{word!r} holds {hidden!r}, and it is not known what mirroring makes of it")
            return word
        return found.upper() if word.isupper() else found.capitalize() if word[0].isupper() else found

    return WORD.sub(opposite, prompt)
