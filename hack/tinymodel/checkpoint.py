# SPDX-License-Identifier: Apache-2.0
"""Write the published Hugging Face layout and prove that transformers reads it."""

import json
import os

import torch
from safetensors.torch import save_file

MAX_BYTES = 8_000_000


def published_tensors(model):
    """Map the model's parameters to the published names: one BF16 tensor per expert and projection."""
    tensors = {}
    for name, value in model.state_dict().items():
        value = value.detach().to(torch.bfloat16)
        if value.dim() == 3:
            prefix, projection = name.rsplit(".", 1)
            for expert in range(value.shape[0]):
                tensors[f"model.{prefix}.experts.{expert}.{projection}.weight"] = value[expert].contiguous()
        else:
            tensors[name if name.startswith("lm_head") else f"model.{name}"] = value.contiguous()
    return tensors


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as out:
        json.dump(value, out, ensure_ascii=False, indent=2)
        out.write("\n")


def save(model, folder, config, generation_config):
    os.makedirs(folder, exist_ok=True)
    weights = os.path.join(folder, "model.safetensors")
    save_file(published_tensors(model), weights, metadata={"format": "pt"})
    os.chmod(weights, 0o644)
    write_json(os.path.join(folder, "config.json"), config)
    write_json(os.path.join(folder, "generation_config.json"), generation_config)


def load_reference(folder):
    """Load folder with transformers: BF16 weights upcast to FP32, plain attention, CPU."""
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            raise SystemExit(f"{folder}: {kind}: {sorted(report[kind])}")
    return model.eval()


@torch.no_grad()
def verify(model, folder, ids):
    """Fail unless folder is small enough and transformers computes the training model's logits."""
    size = sum(entry.stat().st_size for entry in os.scandir(folder))
    if size > MAX_BYTES:
        raise SystemExit(f"{folder} holds {size} bytes, more than {MAX_BYTES}")
    for p in model.parameters():
        p.copy_(p.to(torch.bfloat16).float())
    difference = (model(ids) - load_reference(folder)(ids).logits).abs().max().item()
    print(f"checkpoint: {size} bytes; largest logit difference to transformers {difference:.1e}", flush=True)
    if difference > 1e-3:
        raise SystemExit("transformers computes other logits than the trained model: the export is wrong")
    return size, difference
