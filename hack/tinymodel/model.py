# SPDX-License-Identifier: Apache-2.0
"""DeepSeek-V2 for training on a CPU.

The same function as transformers' DeepseekV2ForCausalLM (checkpoint.py asserts
it), with the experts of a layer in three stacked tensors so that the optimizer
handles them together, and with the balance loss that transformers leaves out.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.nope, self.rope, self.value = (
            c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"])
        self.latent = c["kv_lora_rank"]
        hidden = c["hidden_size"]
        self.q_proj = nn.Linear(hidden, self.heads * (self.nope + self.rope), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, self.latent + self.rope, bias=False)
        self.kv_a_layernorm = nn.RMSNorm(self.latent, eps=1e-6)
        self.kv_b_proj = nn.Linear(self.latent, self.heads * (self.nope + self.value), bias=False)
        self.o_proj = nn.Linear(self.heads * self.value, hidden, bias=False)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.heads, -1).transpose(1, 2)
        q_nope, q_rope = q.split([self.nope, self.rope], dim=-1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split([self.latent, self.rope], dim=-1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).view(b, t, self.heads, -1).transpose(1, 2)
        k_nope, v = kv.split([self.nope, self.value], dim=-1)
        k_rope = rotate(k_rope.unsqueeze(1), cos, sin).expand(-1, self.heads, -1, -1)
        q = torch.cat([q_nope, rotate(q_rope, cos, sin)], dim=-1)
        k = torch.cat([k_nope, k_rope], dim=-1)
        # The fused CPU kernel wants equal head widths: pad v, then cut the zeros off again.
        v = F.pad(v, (0, self.nope + self.rope - self.value))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)[..., :self.value]
        return self.o_proj(out.transpose(1, 2).reshape(b, t, -1))


def rotate(x, cos, sin):
    """Rotate the interleaved pairs (2i, 2i+1) of the last dimension."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class MLP(nn.Module):
    def __init__(self, hidden, width):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MoE(nn.Module):
    def __init__(self, c):
        super().__init__()
        hidden, width, experts = c["hidden_size"], c["moe_intermediate_size"], c["n_routed_experts"]
        self.experts, self.top_k = experts, c["num_experts_per_tok"]
        self.gate = nn.Linear(hidden, experts, bias=False)
        self.shared_experts = MLP(hidden, width * c["n_shared_experts"])
        self.gate_proj = nn.Parameter(torch.empty(experts, width, hidden))
        self.up_proj = nn.Parameter(torch.empty(experts, width, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, width))
        self.balance, self.counts = None, None

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        probabilities = self.gate(flat).softmax(dim=-1)
        weights, chosen = probabilities.topk(self.top_k, dim=-1)
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=self.experts)
        # Switch Transformers' balance loss: 1 when experts are chosen equally often.
        share = counts / counts.sum()
        self.balance = self.experts * (share * probabilities.mean(dim=0)).sum()
        self.counts = counts
        token = order // self.top_k
        parts = []
        for expert, rows in enumerate(flat[token].split(counts.tolist())):
            inner = F.silu(rows @ self.gate_proj[expert].T) * (rows @ self.up_proj[expert].T)
            parts.append(inner @ self.down_proj[expert].T)
        routed = torch.cat(parts) * weights.flatten()[order].unsqueeze(1)
        out = self.shared_experts(flat).index_add(0, token, routed)
        return out.view_as(x)


class Layer(nn.Module):
    def __init__(self, c, index):
        super().__init__()
        hidden, eps = c["hidden_size"], c["rms_norm_eps"]
        self.input_layernorm = nn.RMSNorm(hidden, eps=eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps=eps)
        dense = index < c["first_k_dense_replace"]
        self.mlp = MLP(hidden, c["intermediate_size"]) if dense else MoE(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c["num_hidden_layers"]))
        self.norm = nn.RMSNorm(c["hidden_size"], eps=c["rms_norm_eps"])
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        rope = c["qk_rope_head_dim"]
        frequency = c["rope_theta"] ** (-torch.arange(0, rope, 2, dtype=torch.float32) / rope)
        angle = torch.arange(c["max_position_embeddings"], dtype=torch.float32)[:, None] * frequency
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        depth = c["num_hidden_layers"]
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                # Whatever writes to the residual stream starts smaller, the deeper the model.
                deep = (2 * depth) ** -0.5 if name.endswith(("o_proj.weight", "down_proj", "down_proj.weight")) else 1.0
                nn.init.normal_(parameter, std=deep * parameter.shape[-1] ** -0.5)
        nn.init.normal_(self.lm_head.weight, std=c["initializer_range"])

    def forward(self, ids):
        x = self.embed_tokens(ids)
        cos, sin = self.cos[:ids.shape[1]], self.sin[:ids.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.norm(x))

    def moe_layers(self):
        return [layer.mlp for layer in self.layers if isinstance(layer.mlp, MoE)]
