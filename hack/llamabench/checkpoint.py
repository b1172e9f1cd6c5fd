# SPDX-License-Identifier: Apache-2.0
"""Write one random Qwen3-MoE checkpoint twice: as a Hugging Face directory with
safetensors, which findep reads, and as a GGUF file, which llama.cpp reads.

Both hold the same bytes: matrices in the given type, norms and routers in F32 in
the GGUF, as llama.cpp's own converter writes them. Weights are random because
only their sizes decide how fast a token is decoded.

    python3 -m venv V && V/bin/pip install gguf numpy
    V/bin/python hack/llamabench/checkpoint.py DIR [--dtype BF16|F32] [--layers N] ...
"""

import argparse
import json
import pathlib

import gguf
import numpy

DTYPES = {"BF16": (2, "bfloat16", gguf.GGMLQuantizationType.BF16), "F32": (4, "float32", gguf.GGMLQuantizationType.F32)}
HEAD_DIM = 128


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("directory", type=pathlib.Path)
    p.add_argument("--dtype", choices=DTYPES, default="BF16")
    p.add_argument("--layers", type=int, default=12)
    p.add_argument("--hidden", type=int, default=1024)
    p.add_argument("--heads", type=int, default=8)
    p.add_argument("--kv-heads", type=int, default=2)
    p.add_argument("--experts", type=int, default=32)
    p.add_argument("--experts-per-token", type=int, default=4)
    p.add_argument("--expert-width", type=int, default=512)
    p.add_argument("--vocabulary", type=int, default=32768)
    p.add_argument("--seed", type=int, default=1)
    return p.parse_args()


def config(a):
    """The config.json of the shape."""
    return {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "torch_dtype": DTYPES[a.dtype][1],
        "hidden_size": a.hidden, "num_hidden_layers": a.layers, "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads, "head_dim": HEAD_DIM, "num_experts": a.experts,
        "num_experts_per_tok": a.experts_per_token, "moe_intermediate_size": a.expert_width, "intermediate_size": a.expert_width,
        "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "hidden_act": "silu", "attention_bias": False,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "rope_scaling": None,
        "tie_word_embeddings": False, "vocab_size": a.vocabulary, "bos_token_id": 0, "eos_token_id": 1,
        "use_sliding_window": False, "sliding_window": None,
    }


def tensors(a):
    """Names and shapes: (Hugging Face's, GGUF's, shape). Experts are one GGUF tensor, [experts, out, in]."""
    q, kv, m, h = a.heads * HEAD_DIM, a.kv_heads * HEAD_DIM, a.hidden, a.expert_width
    yield "model.embed_tokens", "token_embd", (a.vocabulary, m)
    yield "model.norm", "output_norm", (m,)
    yield "lm_head", "output", (a.vocabulary, m)
    for i in range(a.layers):
        theirs, ours = f"blk.{i}.", f"model.layers.{i}."
        for name, short, shape in (
            ("input_layernorm", "attn_norm", (m,)), ("post_attention_layernorm", "ffn_norm", (m,)),
            ("self_attn.q_proj", "attn_q", (q, m)), ("self_attn.k_proj", "attn_k", (kv, m)),
            ("self_attn.v_proj", "attn_v", (kv, m)), ("self_attn.o_proj", "attn_output", (m, q)),
            ("self_attn.q_norm", "attn_q_norm", (HEAD_DIM,)), ("self_attn.k_norm", "attn_k_norm", (HEAD_DIM,)),
            ("mlp.gate", "ffn_gate_inp", (a.experts, m)),
        ):
            yield ours + name, theirs + short, shape
        for name, shape in (("gate", (h, m)), ("up", (h, m)), ("down", (m, h))):
            yield f"{ours}mlp.experts.%d.{name}_proj", f"{theirs}ffn_{name}_exps", (a.experts, *shape)


def draw(random, shape):
    """F32 values that BF16 holds exactly: uniform with variance 1/columns, norms near one."""
    v = random.random(shape, dtype=numpy.float32) * 2 - 1
    v = v * 0.1 + 1 if len(shape) == 1 else v * numpy.float32((3 / shape[-1]) ** 0.5)
    return (v.view(numpy.uint32) & 0xFFFF0000).view(numpy.float32)


def stored(v, dtype):
    """The bytes of v in the checkpoint's type."""
    return v if dtype == "F32" else (v.view(numpy.uint32) >> 16).astype(numpy.uint16)


class Safetensors:
    """Writes tensors one after another; the header is known beforehand."""

    def __init__(self, path, a):
        header, at = {}, 0
        for name, shape in self.names(a):
            end = at + int(numpy.prod(shape)) * DTYPES[a.dtype][0]
            header[name] = {"dtype": a.dtype, "shape": shape, "data_offsets": [at, end]}
            at = end
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % 8)
        self.file = open(path, "wb")
        self.file.write(len(raw).to_bytes(8, "little") + raw)

    @staticmethod
    def names(a):
        for name, _, shape in tensors(a):
            if "%d" not in name:
                yield name + ".weight", list(shape)
                continue
            for e in range(shape[0]):
                yield name % e + ".weight", list(shape[1:])


def gguf_writer(path, a):
    w = gguf.GGUFWriter(path, "qwen3moe", use_temp_file=False)
    w.add_name("random")
    w.add_context_length(4096)
    w.add_embedding_length(a.hidden)
    w.add_block_count(a.layers)
    w.add_feed_forward_length(a.expert_width)
    w.add_expert_feed_forward_length(a.expert_width)
    w.add_head_count(a.heads)
    w.add_head_count_kv(a.kv_heads)
    w.add_key_length(HEAD_DIM)
    w.add_value_length(HEAD_DIM)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_rope_freq_base(1000000.0)
    w.add_expert_count(a.experts)
    w.add_expert_used_count(a.experts_per_token)
    w.add_vocab_size(a.vocabulary)
    w.add_tokenizer_model("no_vocab")
    return w


def main():
    a = arguments()
    a.directory.mkdir(parents=True, exist_ok=True)
    (a.directory / "config.json").write_text(json.dumps(config(a), indent=2))
    random = numpy.random.default_rng(a.seed)
    ours = Safetensors(a.directory / "model.safetensors", a)
    theirs = gguf_writer(a.directory / "model.gguf", a)
    for _, short, shape in tensors(a):
        v = draw(random, shape)
        ours.file.write(stored(v, a.dtype).tobytes())
        if len(shape) == 1 or short.endswith("ffn_gate_inp"):
            theirs.add_tensor(short + ".weight", v)
        elif a.dtype == "F32":
            theirs.add_tensor(short + ".weight", v)
        else:
            theirs.add_tensor(short + ".weight", stored(v, a.dtype).view(numpy.uint8), raw_dtype=DTYPES[a.dtype][2])
    ours.file.close()
    theirs.write_header_to_file()
    theirs.write_kv_data_to_file()
    theirs.write_tensors_to_file()
    theirs.close()


main()
