# SPDX-License-Identifier: Apache-2.0
"""Train the small DeepSeek-V2 checkpoint and write it in the published layout.

Usage: train.py --corpus kjv.txt --out FOLDER [--steps N]

The run is deterministic for one machine type and thread count: seed, data
order and thread count are fixed; other processors round differently.
"""

import argparse
import json
import math
import os
import time

import torch
import torch.nn.functional as F

import checkpoint
import corpus
import optimizer
import settings
from model import Model
from tokenizer import save_tokenizer, train_tokenizer


def encode(tokenizer, chapters):
    """One stream of ids; every chapter stands between BOS and EOS."""
    stream = []
    for encoding in tokenizer.encode_batch(chapters):
        stream += [settings.CONFIG["bos_token_id"], *encoding.ids, settings.CONFIG["eos_token_id"]]
    return torch.tensor(stream)


def batches(stream, steps, generator):
    """Yield [BATCH, SEQUENCE+1] windows; every pass has a new offset and order, so no window repeats."""
    window, pending = settings.SEQUENCE, []
    for _ in range(steps):
        if len(pending) < settings.BATCH:
            offset = int(torch.randint(window, (1,), generator=generator))
            count = (len(stream) - offset - 1) // window
            pending = (torch.randperm(count, generator=generator) * window + offset).tolist()
        starts, pending = pending[:settings.BATCH], pending[settings.BATCH:]
        yield torch.stack([stream[s:s + window + 1] for s in starts])


def rate(step, steps):
    """Warm-up, plateau, linear decay to zero, as a factor."""
    return min(1.0, (step + 1) / settings.WARMUP, (steps - step) / (settings.DECAY * steps))


def cross_entropy(model, windows, reduction="mean"):
    logits = model(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction=reduction)


def train(model, stream, steps):
    """Train and return the loss curve as [[step, loss, balance], ...], each averaged since the last."""
    generator = torch.Generator().manual_seed(settings.SEED)
    optimizers = optimizer.build(model, settings.MUON_RATE, settings.ADAM_RATE)
    base = [[g["lr"] for g in o.param_groups] for o in optimizers]
    curve, sums, began = [], [0.0, 0.0, 0], time.monotonic()
    for step, windows in enumerate(batches(stream, steps, generator)):
        for o, rates in zip(optimizers, base):
            for group, lr in zip(o.param_groups, rates):
                group["lr"] = lr * rate(step, steps)
        loss = cross_entropy(model, windows)
        layers = model.moe_layers()
        balance = sum(layer.balance for layer in layers) / len(layers)
        (loss + settings.CONFIG["aux_loss_alpha"] * len(layers) * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in optimizers:
            o.step()
        model.zero_grad(set_to_none=True)
        sums = [sums[0] + loss.item(), sums[1] + balance.item(), sums[2] + 1]
        if (step + 1) % 20 == 0 or step + 1 == steps:
            seconds = time.monotonic() - began
            print(f"step {step + 1}/{steps}  loss {sums[0] / sums[2]:.3f}  balance {sums[1] / sums[2]:.3f}  "
                  f"{seconds:.0f} s, {seconds / (step + 1) * (steps - step - 1):.0f} s left", flush=True)
            curve.append([step + 1, round(sums[0] / sums[2], 4), round(sums[1] / sums[2], 4)])
            sums = [0.0, 0.0, 0]
    return curve


@torch.no_grad()
def evaluate(model, stream):
    """Return (nats per token, share of the assignments of every expert per MoE layer) on a stream."""
    window = settings.SEQUENCE
    count = (len(stream) - 1) // window
    total, counts = 0.0, 0
    for start in range(0, count, settings.BATCH):
        rows = range(start, min(start + settings.BATCH, count))
        total += cross_entropy(model, torch.stack([stream[r * window:(r + 1) * window + 1] for r in rows]), "sum").item()
        counts = counts + torch.stack([layer.counts for layer in model.moe_layers()])
    shares = counts / counts.sum(dim=1, keepdim=True)
    return total / (count * window), shares


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", required=True, help="output of `bible -f gen1:1-rev22:21`")
    parser.add_argument("--out", required=True, help="checkpoint folder to write")
    parser.add_argument("--steps", type=int, default=settings.STEPS)
    parser.add_argument("--report", help="write the measurements to this JSON file")
    args = parser.parse_args()
    torch.manual_seed(settings.SEED)
    torch.set_num_threads(settings.THREADS)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False

    training, held_out = corpus.split_chapters(corpus.read_chapters(args.corpus))
    tokenizer = train_tokenizer(training, settings.CONFIG["vocab_size"])
    os.makedirs(args.out, exist_ok=True)
    save_tokenizer(tokenizer, args.out, settings.CONFIG["max_position_embeddings"])
    stream, held_stream = encode(tokenizer, training), encode(tokenizer, held_out)
    model = Model(settings.CONFIG)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{len(training)} chapters, {len(stream)} tokens; held out {len(held_out)}, {len(held_stream)}; "
          f"{parameters} parameters", flush=True)

    began = time.monotonic()
    curve = train(model, stream, args.steps) if args.steps else []
    seconds = time.monotonic() - began
    checkpoint.save(model, args.out, settings.CONFIG, settings.GENERATION_CONFIG)
    size, difference = checkpoint.verify(model, args.out, held_stream[None, :128])
    # verify has rounded the weights to BF16, so this measures the checkpoint.
    nats, shares = evaluate(model, held_stream)
    held_bytes = sum(len(c.encode()) + 2 for c in held_out)
    report = {
        "parameters": parameters, "trainingTokens": len(stream), "heldOutTokens": len(held_stream),
        "steps": args.steps, "tokensSeen": args.steps * settings.BATCH * settings.SEQUENCE, "seconds": round(seconds),
        "heldOutLoss": round(nats, 4), "heldOutPerplexity": round(math.exp(nats), 3),
        "heldOutBitsPerByte": round(nats * len(held_stream) / held_bytes / math.log(2), 4),
        "checkpointBytes": size, "logitDifference": difference,
        "expertShares": [[round(s, 4) for s in row] for row in shares.tolist()],
        "smallestExpertShare": round(shares.min().item(), 4), "lossCurve": curve,
    }
    print(json.dumps({k: v for k, v in report.items() if k != "lossCurve"}), flush=True)
    if args.report:
        checkpoint.write_json(args.report, report)


if __name__ == "__main__":
    main()
