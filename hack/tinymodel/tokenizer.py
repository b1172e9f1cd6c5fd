# SPDX-License-Identifier: Apache-2.0
"""Train the byte-level BPE tokenizer, laid out as DeepSeek-V2 lays out its own."""

import json
import os

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"


def pre_tokenizer():
    """The chain of DeepSeek-V2's tokenizer.json with its letter and punctuation
    tables written as Unicode classes: line breaks alone, a word or a run of
    punctuation with at most one space before it, every digit by itself."""
    split = lambda pattern: pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([
        split(r"[\r\n]"),
        split(r"\s?\p{L}+"),
        split(r"\s?\p{P}+"),
        split(r"\s+$"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
    ])


def train_tokenizer(texts, vocab_size):
    """Return a Tokenizer of vocab_size ids; 0 is BOS, 1 is EOS, then all 256 bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise SystemExit(f"tokenizer has {tokenizer.get_vocab_size()} ids, want {vocab_size}")
    return tokenizer


def save_tokenizer(tokenizer, folder, max_length):
    """Write tokenizer.json and tokenizer_config.json into folder."""
    tokenizer.save(os.path.join(folder, "tokenizer.json"), pretty=False)
    config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": BOS,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "model_max_length": max_length,
        "pad_token": EOS,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as out:
        json.dump(config, out, ensure_ascii=False, indent=2)
        out.write("\n")
