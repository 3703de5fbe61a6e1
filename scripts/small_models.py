"""A causal language model type of transformers comes in, a small random model of it goes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lorascope.base.architecture import model_class

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Sizes that differ from one another wherever the type lets them, so that a mixed-up shape is noticed.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "lru_width", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("embedding_size", "input_embedding_size"), 20),
    "output_embedding_size": 28,
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "swa_num_attention_heads"), 4
    ),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "kv_n_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "dim_head", "attention_head_size"), 12),
    "swa_head_dim": 10,
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim", "dense_intermediate_size"), 72
    ),
    **dict.fromkeys(("feed_forward_size", "dff", "dim_ff", "d_inner", "intermediate_size_mlp"), 72),
    "ffn_hidden_size": 72,
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size"), 20),
    **dict.fromkeys(("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"), 28),
    **dict.fromkeys(("shared_intermediate_size", "shared_experts_intermediate_size"), 28),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k"), 2),
    **dict.fromkeys(("n_group", "num_expert_group", "topk_group"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 1),
    "q_lora_rank": 26,
    "kv_lora_rank": 18,
    "o_lora_rank": 6,
    "o_groups": 2,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 14,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 8,
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 4),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 6),
    **dict.fromkeys(("mamba_dt_rank", "time_step_rank"), 5),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_heads"), 2),
    "linear_num_value_heads": 4,
    **dict.fromkeys(("linear_key_head_dim", "linear_head_dim"), 8),
    "linear_value_head_dim": 10,
    "vocab_size": 101,
    "max_position_embeddings": 64,
    **dict.fromkeys(("n_positions", "max_seq_len", "max_target_positions", "max_source_positions", "n_ctx"), 64),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "window_size", "attention_chunk_size"), 6),
    **dict.fromkeys(("attention_window_size", "local_attention"), 6),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": 3,
    "decoder_start_token_id": 1,
    "use_cache": False,
}
DEPTHS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks", "depth"),
    *("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers"),
)
# Types whose attention reads a head_dim that their configurations do not declare.
READS_HEAD_DIM = (
    *("apertus", "bamba", "cohere", "cohere2", "cohere_compass_text", "doge", "dots1", "ernie4_5_moe", "exaone4"),
    *("exaone_moe", "falcon_h1", "flex_olmo", "glm4_moe", "granite", "granite_swa", "granitemoe", "granitemoe_swa"),
    *("granitemoehybrid", "granitemoeshared", "jamba", "lfm2", "lfm2_moe", "nanochat", "olmo", "olmo2", "olmo3"),
    *("phi", "phi3", "phi4_multimodal", "phimoe", "qwen2", "qwen2_moe", "qwen3_moe", "recurrent_gemma", "smollm3"),
    "starcoder2",
)
WINDOWS = ("sliding_window", "sliding_window_size", "attention_window_size", "attention_chunk_size")

GEMMA4 = {"hidden_size_per_layer_input": 10, "vocab_size_per_layer_input": 101, "global_head_dim": 20}
QWEN4 = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 4,
    "indexer_compress_ratio": 2,
    "hc_count": 2,
    "hc_lowrank": 6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
}
DOTS3 = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 26,
    "swa_kv_lora_rank": 22,
    "swa_head_dim": 14,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 12,
    "head_dim": 16,
}
VISION = {"image_size": 8, "patch_size": 4}
BLT = {"num_key_value_heads": 4}
# What a type needs or shows beyond the sizes; nested configurations are nested dictionaries.
SETTINGS: dict[str, dict[str, Any]] = {
    "aria_text": {"intermediate_size": 20},
    "axk2": {"gated_norm_rank": 6},
    "bailing_hybrid": {"head_dim": 8},
    "bamba": {"attn_layer_indices": [1]},
    "big_bird": {"attention_type": "original_full"},
    "bigbird_pegasus": {"attention_type": "original_full"},
    "blt": {
        "encoder_hash_byte_group_size": [2, 3],
        "encoder_hash_byte_group_vocab": 50,
        "encoder_config": BLT | {"hidden_size_global": 40, "hidden_size": 24},
        "decoder_config": BLT | {"hidden_size_global": 40, "hidden_size": 24},
        "global_config": BLT | {"hidden_size": 40},
        "patcher_config": BLT,
    },
    "codegen": {"rotary_dim": 4},
    "cohere2_moe": {"mlp_layer_types": ["dense", "sparse"], "intermediate_size": 20, "num_shared_experts": 1},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}},
    },
    "cpmant": {"prompt_types": 4, "prompt_length": 3, "segment_types": 4, "position_bias_num_buckets": 8},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}, "ffn_config": {"ffn_hidden_size": 20}},
    "deepseek_v4": {
        "num_hidden_layers": 3,
        "num_key_value_heads": 1,
        "partial_rotary_factor": 0.5,
        "hc_mult": 2,
        "index_topk": 2,
        "layer_types": ["sliding_attention", "heavily_compressed_attention", "compressed_sparse_attention"],
        "mlp_layer_types": ["hash_moe", "moe", "moe"],
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
    },
    "dots1": {"n_shared_experts": 1, "layer_types": ["full_attention", "sliding_attention"]},
    "dots3_note": {
        "text_config": DOTS3,
        "vision_config": VISION | {"adapter_in_dim": 32, "adapter_out_dim": 32, "per_layer_config": {}},
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32, "downsample_hidden_size": 6},
    },
    "dots3_note_text": DOTS3,
    "falcon": {"num_kv_heads": 2, "new_decoder_architecture": True},
    "falcon_h1": {"mamba_d_ssm": 24},
    "flint": {"mlp_only_layers": [0]},
    "fuyu": {"patch_size": 2},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "laurel_rank": 6,
        "hidden_size_per_layer_input": 10,
        "vocab_size_per_layer_input": 101,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    },
    "gemma4": {"text_config": GEMMA4},
    "gemma4_text": GEMMA4,
    "gemma4_unified": {"text_config": {"global_head_dim": 20}},
    "gemma4_unified_text": {"global_head_dim": 20},
    "git": {"vision_config": VISION},
    "got_ocr2": {
        "vision_config": VISION | {"mlp_dim": 72, "output_channels": 6, "global_attn_indexes": [1], "window_size": 2}
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gpt_oss": {"intermediate_size": 20},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"], "intermediate_size": 20},
    "helium": {"head_dim": 8},
    "hrm_text": {"H_cycles": 1, "L_cycles": 2, "L_bp_cycles": [1]},
    "hy_v4": {"hc_mult": 2},
    "inkling2_text": {"rel_extent": 16, "d_rel": 6, "unpadded_vocab_size": 97, "n_layers_per_attn_res_block": 1},
    "inkling_text": {"rel_extent": 16, "d_rel": 6, "mlp_layer_types": ["dense", "sparse"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "laguna": {"layer_types": ["full_attention", "sliding_attention"], "num_attention_heads_per_layer": [4, 6]},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "llama4": {"text_config": {"moe_layers": [1], "intermediate_size": 20}},
    "llama4_text": {"moe_layers": [1], "intermediate_size": 20},
    "longcat_flash": {"zero_expert_num": 2},
    "mamba2": {"head_dim": 16, "n_groups": 2},
    "mellum": {"layer_types": ["full_attention", "sliding_attention"], "mlp_layer_types": ["dense", "sparse"]},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"],
        "mlp_layer_types": ["dense", "sparse"],
        "index_block_size": 4,
        "index_topk_blocks": 2,
        "rotary_dim": 6,
        "intermediate_size": 20,
    },
    "mllama": {"text_config": {"num_hidden_layers": 3, "cross_attention_layers": [1]}, "vision_config": VISION},
    "nemotron_h": {"mamba_head_dim": 10, "n_groups": 2},
    "phi4_multimodal": {
        "vision_config": VISION | {"crop_size": 8},
        "audio_config": {
            "ext_pw_out_channel": 32,
            "depthwise_separable_out_channel": 32,
            "nemo_conv_channels": 6,
            "input_size": 8,
            "chunk_size": -1,
        },
    },
    "qwen2_moe": {"mlp_only_layers": [0]},
    "qwen3_moe": {"mlp_only_layers": [0]},
    "qwen3_next": {"mlp_only_layers": [0]},
    "qwen4_exp": {"text_config": QWEN4},
    "qwen4_exp_text": QWEN4,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"],
        "num_buckets": 2,
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [12, 20],
        "local_attn_chunk_length": 16,
        "lsh_attn_chunk_length": 16,
    },
    "roc_bert": {
        "pronunciation_embed_dim": 6,
        "pronunciation_vocab_size": 101,
        "shape_embed_dim": 10,
        "shape_vocab_size": 101,
    },
    "xlm": {"causal": True},
    "xlnet": {"d_head": 8},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "n_mamba_heads": 2,
        "num_key_value_heads": 4,
    },
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "num_mem_blocks": 1,
        "adapter_rank": 6,
        "num_key_value_heads": 4,
    },
    "zaya": {
        "num_experts_per_tok": 1,
        "router_hidden_size": 10,
        "sliding_window": 6,
        "layer_types": ["hybrid", "hybrid_sliding"],
    },
}


def sections(*sizes: int, **more: Any) -> dict[str, Any]:
    """Rotary settings whose frequencies are divided among time, height and width."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [*sizes]} | more}


# types that also see
SETTINGS |= {
    **{
        kind: {"text_config": sections(2, 1, 1)}
        for kind in ("glm46v", "glm4v", "glm_ocr", "glmga", "qwen2_5_vl", "qwen2_vl")
    },
    **{
        kind: {"vision_start_token_id": 5, "text_config": sections(2, 1, 1)}
        for kind in ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")
    },
    **{kind: {"text_config": sections(2, 2, 2)} for kind in ("cosmos3_edge", "hunyuan_vl", "paddleocr_vl")},
    "chameleon": {"vocabulary_map": {"<image>": 4}},
    "cohere_compass": {"text_config": SETTINGS["cohere_compass_text"]},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse"]}},
    "ernie4_5_vl_moe": {"text_config": {"moe_intermediate_size": [20, 20]} | sections(1, 1, 2)},
    "glm4v_moe": {"text_config": sections(1, 1, 0, partial_rotary_factor=0.5)},
    "glm5_next": {"text_config": {"index_topk": 4, "index_kpool": 2, "qk_rope_head_dim": 0}},
    "granite_docling": {"vision_config": {"out_hidden_size": 32}},
    "inkling2": {"text_config": SETTINGS["inkling2_text"], "vision_config": {"text_hidden_size": 32}},
    "janus": {"vision_config": {"num_image_tokens": 4, "image_size": 8, "patch_size": 4}},
    "lfm2_vl": {"text_config": SETTINGS["lfm2"]},
    "molmo2": {"adapter_config": {"vision_feature_layer": [-1, -2]}},
    "nemotron_h_omni": {
        "text_config": SETTINGS["nemotron_h"],
        "vision_config": {"video_temporal_patch_size": 2},
        "video_temporal_patch_size": 2,
    },
    "step3p7": {"text_config": {"sliding_window": 6}},
    "unlimited_ocr": {"text_config": {"num_key_value_heads": 4}},
}
NEEDS_ANOTHER_MODEL = "its forward reads the hidden states, keys and values of another model, not token ids"
NEEDS_ITS_PART = "AutoModelForCausalLM gives the decoder the configuration of the whole, which lacks its fields"
# Why a type is not here: not every type that transformers lists can be built and run alone.
NEEDS_AN_IMAGE = "its forward asks for an image with every text"
NO_SMALL_ONE = "no small configuration of it is known here"
# Why a type is not here: not every type that transformers lists can be built and run alone.
UNBUILDABLE: dict[str, str] = {
    **dict.fromkeys(("fast_vlm", "gemma3n", "perception_lm"), "its vision tower needs the package timm"),
    "gemma4_assistant": NEEDS_ANOTHER_MODEL,
    "gemma4_unified_assistant": NEEDS_ANOTHER_MODEL,
    "musicgen": NEEDS_ITS_PART,
    "musicgen_melody": NEEDS_ITS_PART,
    **dict.fromkeys(
        (
            "blip",
            "blip-2",
            "florence2",
            "idefics",
            "instructblip",
            "instructblipvideo",
            "kosmos-2",
            "pi0",
            "pix2struct",
        ),
        NEEDS_AN_IMAGE,
    ),
    **dict.fromkeys(("pp_formulanet", "t5gemma2", "udop", "vision-encoder-decoder"), NEEDS_AN_IMAGE),
    "diffusion_gemma": "it writes by diffusion, not from left to right",
    "evolla": "transformers lists it and has no class for it",
    **dict.fromkeys(("granite4_vision", "muse_spark"), NO_SMALL_ONE),
}
FULL_RANK = {"full_rank_queries": {"q_lora_rank": None}}
# Other settings of a type that lay its weights out differently, by a name for each.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "kimi_linear", "minicpm3"), FULL_RANK),
    "cohere": {"norms": {"use_qk_norm": True}},
    "doge": {"experts": {"is_moe": True}},
    "falcon": {
        "multi_query": {"new_decoder_architecture": False, "multi_query": True},
        "multi_head": {
            "new_decoder_architecture": False,
            "multi_query": False,
            "num_kv_heads": 4,
            "alibi": True,
            "parallel_attn": False,
            "bias": True,
        },
    },
    "gemma4_text": {
        "keys_are_values": {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
        "experts": {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 20},
        "shared_keys": {
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    },
    "gemma4_unified_text": {"keys_are_values": {"attention_k_eq_v": True, "num_global_key_value_heads": 1}},
    "gpt2": {"cross_attention": {"add_cross_attention": True}},
    "gpt_bigcode": {"multi_head": {"multi_query": False}},
    "gpt_neox": {"sequential": {"use_parallel_residual": False}},
    "granitemoehybrid": {"dense": {"num_local_experts": 0}},
    "laguna": {"gate_per_element": {"gating": "per-element"}},
    "llama": {"biased": {"attention_bias": True, "mlp_bias": True}},
    "nemotron_h": {"latent_experts": {"moe_latent_size": 12}},
    "opt": {"projected": {"do_layer_norm_before": False, "word_embed_proj_dim": 20}},
    "phi": {"norms": {"qk_layernorm": True, "head_dim": 8}},
    "qwen4_exp_text": {
        "embedded_layers": {
            "ple_layer_ids": [1],
            "ple_embed_dim": 16,
            "ngram_size": 3,
            "heads_per_ngram": 2,
            "ngram_vocab_size_base": 30,
            "make_ngram_vocab_size_divisible_by": 2,
            "split_ngram_parts": 1,
        },
    },
    "roformer": {"rotated_values": {"rotary_value": True}},
    "stablelm": {"parallel": {"use_parallel_residual": True, "qk_layernorm": True}},
    "youtu": FULL_RANK,
    "zamba2": {"adapters": {"use_shared_attention_adapter": True, "use_mem_rope": True, "num_mem_blocks": 2}},
}


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' remarks on odd sizes and missing kernels, which a small model on a CPU always draws."""
    from transformers import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def small_config(model_type: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a type at a size of kilobytes; CHANGES, one of VARIANTS say, are laid over it."""
    from transformers import AutoConfig

    head_dim = {"head_dim": 12} if model_type in READS_HEAD_DIM else {}
    settings = head_dim | SETTINGS.get(model_type, {}) | changes
    with quiet():
        return AutoConfig.for_model(model_type, **shrunk(AutoConfig.for_model(model_type), settings))


def shrunk(config: PreTrainedConfig, changes: dict[str, Any]) -> dict[str, Any]:
    """The settings that make a configuration like CONFIG small, nested ones too, with CHANGES laid over them."""
    stored = {field.name: config.attribute_map.get(field.name, field.name) for field in dataclasses.fields(config)}
    fields = {name: vars(config)[place] for name, place in stored.items() if place in vars(config)}
    depth = next((fields[name] for name in DEPTHS if isinstance(fields.get(name), int)), 0)
    kinds = {
        name: list(dict.fromkeys(value))
        for name, value in fields.items()
        if isinstance(value, list) and depth and len(value) == depth and all(isinstance(kind, str) for kind in value)
    }
    layers = max([2, *map(len, kinds.values())])
    settings = {name: size for name, size in SIZES.items() if name in fields}
    settings |= dict.fromkeys(fields.keys() & set(DEPTHS), layers)
    settings |= {name: (several * layers)[:layers] for name, several in kinds.items()}
    settings = {name: value for name, value in settings.items() if name not in WINDOWS or fields[name] is not None}
    if "kv_lora_rank" in fields:
        settings |= {"num_key_value_heads": 4} | ({"head_dim": 6} if "head_dim" in fields else {})
    if "is_decoder" in fields:
        settings["is_decoder"] = True
    settings |= changes
    for name, value in fields.items():
        if hasattr(value, "to_dict"):
            settings[name] = type(value)(**shrunk(value, changes.get(name, {})))
    return settings


def causal_types() -> list[str]:
    """The types that transformers has a causal language model of."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def seeing_types() -> list[str]:
    """The types that read images and text, and have no causal language model of their own."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.keys() - {*causal_types()})


def small_model(model_type: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A small random model of a type: eager attention, float32, on the CPU, set to evaluation; the seed says which."""
    import torch

    config = small_config(model_type, **changes)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).from_config(config, attn_implementation="eager").float().eval()
    redraw(model, seed)
    return model


def redraw(model: PreTrainedModel, seed: int) -> None:
    """Random weights where a new model has zeros and ones: a projection of zeros would hide what depends on it."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2 or bool((parameter == 1).all()):
                parameter.add_(0.1 * noise)
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
