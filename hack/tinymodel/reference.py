# SPDX-License-Identifier: Apache-2.0
"""Write the reference outputs that the executor and the tokenizer are tested against.

Usage: reference.py --corpus kjv.txt --model FOLDER --out FOLDER

transformers computes everything in FP32 on the CPU from the BF16 weights, with
plain attention. A prompt is kept only when its outputs do not hang on rounding:
no greedy step may be close to a tie, nor any router choice at any position.
"""

import argparse
import glob
import json
import os

import numpy as np
import torch
from transformers import AutoTokenizer

import checkpoint
import corpus
import prompts
import settings

CONTINUATION = 32
SHORTEST_CONTINUATION = 24
# Smallest difference between the best and the second-best logit of a greedy step.
MIN_GAP = 0.01
# Smallest difference between the last chosen and the first rejected router logit.
# FP32 sums in another order move a router logit by about 1e-6.
MIN_ROUTER_GAP = 5e-5
# Prompts up to this length store every position, longer ones 16 of them.
FULL_POSITIONS = 33
MIN_PROMPTS = 24
INTERMEDIATE = "beginning"


class RouterProbe:
    """Records, while active, the smallest top-k margin of every router."""

    def __init__(self, model):
        self.top_k, self.gap = model.config.num_experts_per_tok, float("inf")
        for layer in model.model.layers:
            if hasattr(layer.mlp, "gate"):
                layer.mlp.gate.register_forward_pre_hook(self.observe)

    def observe(self, gate, args):
        logits = (args[0].flatten(0, -2).float() @ gate.weight.float().T).sort(dim=-1, descending=True).values
        self.gap = min(self.gap, (logits[:, self.top_k - 1] - logits[:, self.top_k]).min().item())


def candidates(tokenizer, held_out):
    for name, text in prompts.WRITTEN:
        yield name, text, tokenizer.encode(text)
    for length, chapter, start in prompts.CUTS:
        text = tokenizer.decode(tokenizer.encode(held_out[chapter])[start:start + length])
        ids = tokenizer.encode(text)
        if len(ids) == length:
            yield f"held-out-{length}-{chapter}", text, ids


@torch.no_grad()
def continue_greedily(model, ids):
    """Return (tokens, gaps), stopping at EOS or before a near-tie; no cache, so nothing is approximated."""
    eos, tokens, gaps = settings.CONFIG["eos_token_id"], [], []
    while len(tokens) < CONTINUATION and (not tokens or tokens[-1] != eos):
        best = model(torch.tensor([ids + tokens]), use_cache=False).logits[0, -1].topk(2)
        gap = (best.values[0] - best.values[1]).item()
        if gap <= MIN_GAP:
            break
        tokens.append(best.indices[0].item())
        gaps.append(gap)
    return tokens, gaps


def logit_positions(length):
    """All positions of a short prompt; of a long one the first 4, 4 spread evenly, and the last 8."""
    if length <= FULL_POSITIONS:
        return list(range(length))
    spread = np.linspace(4, length - 9, 6)[1:-1].astype(int).tolist()
    return sorted({*range(4), *spread, *range(length - 8, length)})


@torch.no_grad()
def reference(model, probe, tokenizer, name, text, ids):
    """Return (entry of prompts.json, logits), or the reason why the candidate is unfit."""
    probe.gap = float("inf")
    tokens, gaps = continue_greedily(model, ids)
    ended = bool(tokens) and tokens[-1] == settings.CONFIG["eos_token_id"]
    if len(tokens) < SHORTEST_CONTINUATION and not ended:
        return None, f"near-tie at step {len(tokens)}"
    if probe.gap <= MIN_ROUTER_GAP:
        return None, f"router margin {probe.gap:.1e}"
    generated = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                               max_new_tokens=len(tokens), do_sample=False)[0, len(ids):].tolist()
    if generated != tokens:
        raise SystemExit(f"{name}: generate() gives {generated}, the full forward pass {tokens}")
    positions = logit_positions(len(ids))
    entry = {
        "id": name, "prompt": text, "promptTokens": ids, "positions": len(ids), "logitPositions": positions,
        "greedyTokens": tokens, "greedyText": tokenizer.decode(tokens, skip_special_tokens=True),
        "finishReason": "stop" if ended else "length",
        "minGap": round(min(gaps), 5), "minRouterGap": round(probe.gap, 7),
    }
    logits = model(torch.tensor([ids]), use_cache=False).logits[0, positions].numpy().astype(np.float32)
    return entry, logits


@torch.no_grad()
def intermediate(model, entry):
    """Every stage of one prompt, [positions][hidden] each, to find the first layer that differs."""
    stages, hooks = {}, []

    def record(name):
        def hook(_, __, output):
            value = output[0] if isinstance(output, tuple) else output
            stages[name] = value.reshape(-1, value.shape[-1]).float()
        return hook

    def route(name):
        def hook(_, __, output):
            order = output[1].argsort(dim=-1, descending=True)
            stages[f"{name}.experts"] = output[0].gather(1, order)
            stages[f"{name}.weights"] = output[1].gather(1, order)
        return hook

    base = model.model
    hooks.append(base.embed_tokens.register_forward_hook(record("embedding")))
    for i, layer in enumerate(base.layers):
        hooks.append(layer.self_attn.register_forward_hook(record(f"layer{i}.attention")))
        hooks.append(layer.mlp.register_forward_hook(record(f"layer{i}.mlp")))
        hooks.append(layer.register_forward_hook(record(f"layer{i}.output")))
        if hasattr(layer.mlp, "gate"):
            hooks.append(layer.mlp.gate.register_forward_hook(route(f"layer{i}.router")))
            hooks.append(layer.mlp.shared_experts.register_forward_hook(record(f"layer{i}.shared")))
    hooks.append(base.norm.register_forward_hook(record("norm")))
    model(torch.tensor([entry["promptTokens"]]), use_cache=False)
    for hook in hooks:
        hook.remove()
    rounded = {name: [[float(f"{v:.8g}") if isinstance(v, float) else v for v in row] for row in value.tolist()]
               for name, value in stages.items()}
    return {"id": entry["id"], "promptTokens": entry["promptTokens"], "stages": rounded}


def tokenizer_cases(tokenizer):
    cases = []
    for text in prompts.TOKENIZER_CASES:
        ids = tokenizer.encode(text)
        cases.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True),
                      "decodedWithSpecial": tokenizer.decode(ids, skip_special_tokens=False)})
    return cases


def decode_cases(tokenizer):
    """Ids of single bytes that make incomplete or invalid UTF-8, and what they decode to."""
    from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

    symbol = bytes_to_unicode()
    cases = []
    for data in prompts.DECODE_BYTES:
        ids = [tokenizer.convert_tokens_to_ids(symbol[b]) for b in data]
        cases.append({"bytes": list(data), "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)})
    return cases


def write_compact(path, items):
    """One list item a line: small, and still readable as a diff."""
    with open(path, "w", encoding="utf-8") as out:
        out.write("[\n" + ",\n".join(json.dumps(i, ensure_ascii=False) for i in items) + "\n]\n")


def write_intermediate(path, value):
    """One position of one stage a line."""
    rows = lambda stage: "[\n" + ",\n".join(json.dumps(row) for row in stage) + "\n]"
    stages = ",\n".join(f"{json.dumps(name)}: {rows(stage)}" for name, stage in value["stages"].items())
    with open(path, "w", encoding="utf-8") as out:
        out.write(f'{{"id": {json.dumps(value["id"])},\n"promptTokens": {json.dumps(value["promptTokens"])},\n"stages": {{\n{stages}\n}}}}\n')


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(settings.THREADS)
    _, held_out = corpus.split_chapters(corpus.read_chapters(args.corpus))
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = checkpoint.load_reference(args.model)
    probe = RouterProbe(model)

    os.makedirs(args.out, exist_ok=True)
    for old in glob.glob(os.path.join(args.out, "logits_*.npy")):
        os.remove(old)
    entries = []
    for name, text, ids in candidates(tokenizer, held_out):
        entry, result = reference(model, probe, tokenizer, name, text, ids)
        if entry is None:
            print(f"skip {name}: {result}", flush=True)
            continue
        np.save(os.path.join(args.out, f"logits_{name}.npy"), result)
        entries.append(entry)
        print(f"{name}: {len(ids)} + {len(entry['greedyTokens'])} tokens, gap {entry['minGap']}, "
              f"router gap {entry['minRouterGap']}: {text[-40:]!r} -> {entry['greedyText']!r}", flush=True)
    if len(entries) < MIN_PROMPTS:
        raise SystemExit(f"only {len(entries)} prompts are fit, want {MIN_PROMPTS}: add candidates to prompts.py")
    write_compact(os.path.join(args.out, "prompts.json"), entries)
    write_intermediate(os.path.join(args.out, "intermediate.json"),
                       intermediate(model, next(e for e in entries if e["id"] == INTERMEDIATE)))
    write_compact(os.path.join(args.out, "tokenizer_cases.json"), tokenizer_cases(tokenizer))
    write_compact(os.path.join(args.out, "decode_cases.json"), decode_cases(tokenizer))
    size = sum(e.stat().st_size for e in os.scandir(args.out))
    print(f"{len(entries)} prompts, {size} bytes", flush=True)


if __name__ == "__main__":
    main()
