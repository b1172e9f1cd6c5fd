# SPDX-License-Identifier: Apache-2.0
"""Write small tokenizers laid out as DeepSeek-V3's and Qwen3's, and vectors for them.

Run in this folder with `pip install tokenizers==0.23.3`. The pre-tokenizers,
normalizers and the flags of the added tokens are those of the published files;
the vocabularies are small so that the files are.
"""

import json
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

DEEPSEEK = [
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]
QWEN = [
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
]
CORPUS = [
    "The quick brown fox jumps over the lazy dog. Don't you think that's it, she'll say, we've 12345 reasons!",
    "def forward(self, hidden_states):\n    return self.down(self.act(self.gate(hidden_states)))\n",
    "专家混合模型把每个词元送到几个专家。ニューラルネットワークは層からなる。한국어 문장도 있다. Größe, façade, naïve.",
    "    indented\n\n\n\ttabbed   and   spaced  \n",
] * 8
PARTS = [
    "a", "b", "Z", "é", "ß", "ſ", "'s", "'S", "'ſ", "'ll", "'LL", " ", "  ", "   ", "\n", "\r\n", "\n\n", "\t", "\u00a0",
    "\u3000", "\u2028", "\x85", "\x0b", "1", "12", "123", "1234", "٣", "Ⅷ", "½", "²", "中", "文字", "の", "カ", "한국어",
    "🙂", "👩‍👩‍👧", "e\u0301", "\u0301", "नमस्ते", ".", "...", "!?", "$", "+", "=", "_", "-", "©", "，", "。", "<", "<｜",
    "<｜end▁of▁sentence｜>", "<|im_end|>", "<think>", "<｜User｜>", "<one>", "<left>", "<right>", "<éclair>", "\x00",
    "\ufffd", "\u200b", "ﬁ", "\u212a", "İ", "ǅ", "the", "hello", "World", "function(){", "don't", "I'VE", "\U0001F1E9",
]


def build(patterns, normalizer, added, vocab_size):
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    stages = [pre_tokenizers.Split(Regex(p), behavior="isolated") for p in patterns]
    stages.append(pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(stages)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer=trainer)
    for token in added:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    return tokenizer


def write(name, tokenizer, seed):
    tokenizer.save(f"{name}.json", pretty=False)
    rng = random.Random(seed)
    texts = ["", CORPUS[0], CORPUS[1], CORPUS[2], CORPUS[3]]
    texts += ["".join(rng.choice(PARTS) for _ in range(rng.randint(1, 12))) for _ in range(400)]
    cases = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids)})
    for _ in range(200):
        ids = [rng.randrange(tokenizer.get_vocab_size()) for _ in range(rng.randint(1, 6))]
        cases.append({"ids": ids, "decoded": tokenizer.decode(ids)})
    with open(f"{name}.cases.json", "w", encoding="utf-8") as out:
        out.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


def token(content, special=False, normalized=False, **flags):
    return AddedToken(content, special=special, normalized=normalized, **flags)


write("deepseek-v3", build(DEEPSEEK, normalizers.Sequence([]), [
    token("<｜begin▁of▁sentence｜>", special=True), token("<｜end▁of▁sentence｜>", special=True),
    token("<｜User｜>", normalized=True), token("<one>", single_word=True), token("<left>", lstrip=True),
    token("<right>", rstrip=True)], 420), 1)
write("qwen3", build(QWEN, normalizers.NFC(), [
    token("<|endoftext|>", special=True), token("<|im_start|>", special=True), token("<|im_end|>", special=True),
    token("<think>"), token("<e\u0301clair>", normalized=True)], 420), 2)
