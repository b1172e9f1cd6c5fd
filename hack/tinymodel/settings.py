# SPDX-License-Identifier: Apache-2.0
"""Everything that decides what the checkpoint is: one place, no flags."""

SEED = 20261124

# The config.json of the checkpoint, with the field names of DeepSeek-V2-Lite's.
# The dimensions differ from each other wherever a mix-up would otherwise pass
# unnoticed (hidden 160, query/key head 48, value head 32, latent 64).
CONFIG = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "aux_loss_alpha": 0.01,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 160,
    "initializer_range": 0.02,
    "intermediate_size": 416,
    "kv_lora_rank": 64,
    "max_position_embeddings": 1024,
    "mlp_bias": False,
    "model_type": "deepseek_v2",
    "moe_intermediate_size": 64,
    "moe_layer_freq": 1,
    "n_group": 1,
    "n_routed_experts": 16,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 4,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 5,
    "num_key_value_heads": 4,
    "pad_token_id": 1,
    "pretraining_tp": 1,
    "q_lora_rank": None,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 10000,
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "greedy",
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "v_head_dim": 32,
    "vocab_size": 1536,
}

GENERATION_CONFIG = {
    "_from_model_config": True,
    "bos_token_id": 0,
    "do_sample": False,
    "eos_token_id": 1,
    "pad_token_id": 1,
}

# run.sh makes idle threads sleep: spinning ones stall each other on a shared machine.
THREADS = 2
SEQUENCE = 192
BATCH = 8
STEPS = 1100
WARMUP = 40
# The share of the steps at the end over which the learning rate falls to zero.
DECAY = 0.6
MUON_RATE = 0.02
ADAM_RATE = 4e-3
