# SPDX-License-Identifier: Apache-2.0
"""Candidate prompts and tokenizer cases, all deterministic.

reference.py keeps the candidates whose outputs are no near-ties, so there are
more of them than the reference needs.
"""

WRITTEN = [
    ("one-token", "The"),
    ("one-letter", "A"),
    ("space", " "),
    ("newline", "\n"),
    ("digit", "7"),
    ("two-words", "And he"),
    ("beginning", "In the beginning"),
    ("beginning-verse", "In the beginning God created the heaven and the earth."),
    ("light", "And God said, Let there be light:"),
    ("king", "And the king of Israel said unto"),
    ("shepherd", "The LORD is my shepherd;"),
    ("question", "Who art thou? And whence comest thou?"),
    ("verily", "Verily, verily, I say unto you,"),
    ("lower-case", "the children of israel went out of the land"),
    ("upper-case", "THE LORD SPAKE UNTO MOSES, SAYING,"),
    ("digits", "In the year 1611, on the 12th day of the 3rd month, 4075 men"),
    ("numbers-only", "3.14159 2718 1000000"),
    ("accents", "Élie répondit à la reine: «Où est ton père?» And she said,"),
    ("greek", "Ἐν ἀρχῇ ἦν ὁ λόγος, which is to say, In the beginning was"),
    ("chinese", "起初神创造天地。And God saw that"),
    ("emoji", "Behold 🐑🐑🐑 and the shepherd 😀 said,"),
    ("combining", "The cafe\u0301 of nai\u0308ve men, and the \u0928\u092e\u0938\u094d\u0924\u0947 of the people"),
    ("right-to-left", "שלום, said he unto them, and"),
    ("spaces", "And   it  came    to pass"),
    ("tabs", "\tAnd\tit came to pass,\tthat"),
    ("trailing-space", "And the word of the LORD came unto me, saying, "),
    ("line-breaks", "And God said,\n\nLet the waters\r\nbring forth"),
    ("punctuation", "\"Wherefore?!\" -- (said he); [and] {they} answered... 'No.'"),
    ("code", "def main(): return {'key': [1, 2, 3]}  # the son of"),
    ("modern", "The computer sent a message over the network to the server, and the server"),
    ("sentences", "Now there was a man of the hill country. His name was Joel. He had two sons, and they kept his sheep."),
    ("repetition", "holy, holy, holy, holy, holy, holy, holy,"),
    ("end-of-psalm", "Let every thing that hath breath praise the LORD. Praise ye the LORD."),
    ("end-of-letter", "The grace of our Lord Jesus Christ be with you all. Amen."),
    ("special-token", "<｜begin▁of▁sentence｜>And it came to pass in those days,"),
]

# (tokens, chapter of the held-out text, token to start at)
CUTS = [
    (8, 0, 0), (16, 5, 10), (24, 10, 60), (32, 14, 33), (33, 17, 2), (48, 20, 20), (63, 23, 0), (64, 25, 11), (65, 27, 50),
    (96, 33, 0), (127, 38, 0), (128, 40, 15), (129, 42, 3), (160, 44, 30), (200, 47, 25), (200, 1, 9),
]

TOKENIZER_CASES = [
    "", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r", "\t", "\t\t", " \n", "\n ", " \n ", "  \n\n  ", "a", "A", " a", "a ", " a ", "  a",
    "a  b", "a   b", "a \n b", "a\nb", "a\r\nb", "a\n\n\nb", "trailing  ", "trailing\n", "trailing \t ", "\u00a0", "a\u00a0b", "a \u00a0b",
    "a\u2003b", "a\u3000b", "a\u0085b", "a\u1680b", "a\x0b\x0cb", "a\x1cb", "\u2028", "a\u200bb", "\ufeffbom", "0", "1234567890", "12 345", " 1", "1.5e-10", "v2.0.1", "٣٤٥", "Ⅷ½²",
    "In the beginning God created the heaven and the earth.", "And God said, Let there be light: and there was light.",
    "the LORD thy God", "LORD", "don't", "Pharaoh's", "it's I'll you've", "Wherefore?!", "...", "--", "—", "“quoted”", "(paren)", "[x]{y}<z>",
    "a,b;c:d", "$100 + 20% = 120^2 ~ `x`", "email@example.com", "https://example.com/path?q=1&r=2", "snake_case camelCase", "C++ & C#",
    "é", "e\u0301", "naïve café", "Straße ÄÖÜ", "Ἐν ἀρχῇ ἦν ὁ λόγος", "Привет, мир", "שלום עולם", "مرحبا بالعالم", "नमस्ते", "สวัสดี",
    "起初神创造天地。", "こんにちは世界", "안녕하세요", "Tiếng Việt", "😀", "👍🏽", "👨\u200d👩\u200d👧", "🇩🇪", "a😀b", "𝔘𝔫𝔦", "\U00010348", "\u0000", "\u0007bell", "\x7f",
    "\ufffd", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "x<｜end▁of▁sentence｜>y", "<｜begin▁of▁sentence｜>In the beginning",
    "<｜begin▁of▁sentence", "<|begin_of_sentence|>", "  leading spaces and   inner   runs  ", "Mahershalalhashbaz", "antidisestablishmentarianism",
    "x" * 40, "ab" * 30, " " * 20, "\n" * 9, "and the " * 12,
]

# Ids that are no encoding of any text: cut inside a character, or specials among them.
# The first number of a pair is a byte, the second an id; see reference.decode_cases.
DECODE_BYTES = [
    b"\xf0", b"\xf0\x9f", b"\xf0\x9f\x98", b"\xf0\x9f\x98\x80", b"\x9f\x98", b"a\xf0\x9fb", b"\xc3", b"\xc3\xa9", b"\xc3\xc3\xa9",
    b"\xff\xfe", b"\xed\xa0\x80", b"\xe2\x82", b"\xe2\x82\xac\xe2", b"\xc0\x80", b"\x80",
]
