# SPDX-License-Identifier: Apache-2.0
"""Write the model card from the measurements of one training run.

Usage: card.py --report report.json --reference FOLDER --out README.md
"""

import argparse
import json
import os

import corpus
import settings

TEMPLATE = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Written by hack/tinymodel/card.py; edit that. -->

# A small DeepSeek-V2 checkpoint for tests

A real, trained Mixture-of-Experts language model of {parameters:,} parameters in the published
DeepSeek-V2 layout. It is small enough to live in a repository and large enough that a mistake in
attention, routing, expert weights or token order shows as different text. It is a test fixture:
it knows the English of one old book and nothing else.

## Architecture

`DeepseekV2ForCausalLM`, the shape of DeepSeek-V2-Lite scaled down.

| | |
|---|---|
| hidden size, layers | {hidden_size}, {num_hidden_layers} (the first {first_k_dense_replace} dense, {intermediate_size} wide) |
| routed experts | {n_routed_experts} per layer, top {num_experts_per_tok}, {moe_intermediate_size} wide; softmax scores, greedy, not renormalised, scaling 1.0 |
| shared experts | {n_shared_experts}, fused as one of width {shared_width} |
| attention | MLA: {num_attention_heads} heads, no query compression, KV latent {kv_lora_rank}, query/key {qk_nope_head_dim} + {qk_rope_head_dim} rotary, value {v_head_dim} |
| rotary embedding | theta {rope_theta}, interleaved pairs, no scaling |
| vocabulary | {vocab_size} ids: byte-level BPE, all 256 bytes; id 0 begin, id 1 end of sentence; embeddings not tied |
| positions | {max_position_embeddings}; trained on windows of {sequence} |
| weights | BF16, {checkpoint_bytes:,} bytes of checkpoint in all, one tensor per expert and projection |

The tokenizer adds no begin-of-sentence token (`add_bos_token` is false): the prompt's tokens are exactly
its encoding. In training every chapter stood between begin and end of sentence.

## Training data and licence

The King James Version of the Bible (1611, in the public domain) as packaged in Debian 12:
`bible-kjv` and `bible-kjv-text` 4.38, without verse numbers, a chapter per document, a verse per line.
In the United Kingdom printing that text is subject to letters patent of the Crown. The corpus itself
is not part of this repository. The weights are under this repository's licence, Apache-2.0.

{training_tokens:,} tokens to train on; every {hold_out}th chapter ({held_out_tokens:,} tokens) was held out.

## Measurements

| | |
|---|---|
| steps, tokens seen | {steps}, {tokens_seen:,} ({passes:.1f} passes) |
| time | {minutes:.0f} minutes on {threads} shared CPU cores |
| held-out perplexity per token | {perplexity} ({loss} nats; uniform would be {vocab_size}) |
| held-out bits per byte | {bits_per_byte} |
| smallest share of an expert in its layer | {smallest_share:.1%} of the assignments (even would be {even_share:.2%}) |
| largest logit difference, training code to transformers | {difference:.1e} |

Share of the assignments per expert on the held-out text:

| layer | {expert_header} |
|---|{expert_rule}
{expert_rows}

Loss (nats per token) and balance loss (1 is even), means over the 20 steps before:

| step | loss | balance |
|---:|---:|---:|
{curve}

## Samples

Greedy continuations, from `test/testdata/reference/prompts.json`:

{samples}
"""


def samples(reference, wanted):
    with open(os.path.join(reference, "prompts.json"), encoding="utf-8") as file:
        entries = [e for e in json.load(file) if e["id"] in wanted]
    return "\n".join(f"- **{e['prompt']}**{e['greedyText']}".replace("\n", " / ") for e in entries)


def card(report, reference):
    config, shares = settings.CONFIG, report["expertShares"]
    curve = [row for i, row in enumerate(report["lossCurve"]) if i in (0, 1, 2) or (i + 1) % 5 == 0 or row is report["lossCurve"][-1]]
    first = config["first_k_dense_replace"]
    return TEMPLATE.format(
        **config, parameters=report["parameters"], shared_width=config["n_shared_experts"] * config["moe_intermediate_size"],
        sequence=settings.SEQUENCE, threads=settings.THREADS, checkpoint_bytes=report["checkpointBytes"],
        training_tokens=report["trainingTokens"], held_out_tokens=report["heldOutTokens"], hold_out=corpus.HOLD_OUT_EVERY,
        steps=report["steps"], tokens_seen=report["tokensSeen"], passes=report["tokensSeen"] / report["trainingTokens"],
        minutes=report["seconds"] / 60, perplexity=report["heldOutPerplexity"], loss=report["heldOutLoss"],
        bits_per_byte=report["heldOutBitsPerByte"], smallest_share=report["smallestExpertShare"],
        even_share=1 / config["n_routed_experts"], difference=report["logitDifference"],
        expert_header=" | ".join(str(i) for i in range(config["n_routed_experts"])),
        expert_rule="---:|" * config["n_routed_experts"],
        expert_rows="\n".join(f"| {first + i} | " + " | ".join(f"{100 * s:.1f}%" for s in row) + " |" for i, row in enumerate(shares)),
        curve="\n".join(f"| {step} | {loss:.3f} | {balance:.3f} |" for step, loss, balance in curve),
        samples=samples(reference, {"beginning", "king", "light", "verily", "sentences", "modern", "two-words", "shepherd"}),
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--report", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    with open(args.report, encoding="utf-8") as file:
        report = json.load(file)
    with open(args.out, "w", encoding="utf-8") as out:
        out.write(card(report, args.reference))


if __name__ == "__main__":
    main()
