# SPDX-License-Identifier: Apache-2.0
"""Turn the one-verse-per-line dump of the King James Bible into documents.

The dump is what `bible -f gen1:1-rev22:21` of Debian's bible-kjv prints:
one line per verse, `Ge1:1 In the beginning ...`. A document is one chapter,
its verses joined by newlines, without the references: a model this small
spends its capacity better on language than on remembering numbers.
"""

import re

VERSE = re.compile(r"^(\d?[A-Za-z]+)(\d+):(\d+) (.*)$")

# One chapter in this many is held out of training, to measure perplexity on.
HOLD_OUT_EVERY = 24


def read_chapters(path):
    """Return the chapters of the dump at path as strings, in book order."""
    chapters, current, key = [], [], None
    with open(path, encoding="utf-8") as dump:
        for number, line in enumerate(dump, start=1):
            match = VERSE.match(line.rstrip("\n"))
            if match is None:
                raise SystemExit(f"{path}:{number}: not a verse: {line!r}; dump it with `bible -f gen1:1-rev22:21`")
            book, chapter, _, text = match.groups()
            if (book, chapter) != key:
                if current:
                    chapters.append("\n".join(current))
                current, key = [], (book, chapter)
            current.append(" ".join(text.split()))
    chapters.append("\n".join(current))
    return chapters


def split_chapters(chapters):
    """Split into (training, held out): every HOLD_OUT_EVERY-th is held out."""
    last = HOLD_OUT_EVERY - 1
    train = [c for i, c in enumerate(chapters) if i % HOLD_OUT_EVERY != last]
    held_out = [c for i, c in enumerate(chapters) if i % HOLD_OUT_EVERY == last]
    return train, held_out
