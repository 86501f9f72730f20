"""Tiny random models of many families, to try engines on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from es_lightning.models.embedded import tiny_folder
from es_lightning.models.layout import persistent_buffers

VOCABULARY = 260  # of the tiny tokenizer
COMMON: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": 256,
}
ALL_HEADS: Mapping[str, Any] = {
    name: value for name, value in COMMON.items() if name != "num_key_value_heads"
}
EXPERTS: Mapping[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
}
LINEAR: Mapping[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
LATENT: Mapping[str, Any] = {
    "q_lora_rank": 32,
    "kv_lora_rank": 512,  # the sizes that vLLM's kernels know
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "head_dim": 64,
    "num_key_value_heads": 4,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
}
GPT: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 128,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "bos_token_id": 256,
    "eos_token_id": 256,
}


@dataclass(frozen=True)
class Family:
    """A family of models.

    Args:
        kind: its ``model_type`` in transformers.
        options: of its configuration, beside or instead of those in common.
        common: what its configuration shares with others.
        refused: what in vLLM refuses it: ``at once``, before anything is loaded, or ``by the check``; empty
            if it is right.
        why: the reason, or a note.
        bound: nats per token that vLLM may differ by.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    common: Mapping[str, Any] = field(default_factory=lambda: COMMON)
    refused: str = ""
    why: str = ""
    bound: float = 1e-3

    @property
    def vllm(self) -> str:
        """The verdict."""
        return "refused" if self.refused else "right"


def _text(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"text_config": {**COMMON, **options}}


FAMILIES: dict[str, Family] = {
    "Llama": Family("llama"),
    "Qwen2": Family("qwen2"),
    "Qwen3": Family("qwen3", {"head_dim": 32}),
    "Gemma": Family("gemma", {"head_dim": 32}),
    "Gemma 2": Family(
        "gemma2",
        {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8},
        why="soft caps",
        bound=1e-2,
    ),
    "Gemma 3": Family("gemma3_text", {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8}),
    "GPT-2": Family("gpt2", common=GPT),
    "Mistral": Family("mistral", {"sliding_window": 8}),
    "OPT": Family("opt", {"ffn_dim": 256, "word_embed_proj_dim": 128}, ALL_HEADS),
    "Phi": Family("phi"),
    "Phi-3": Family("phi3"),
    "Falcon": Family("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "Falcon-H1": Family(
        "falcon_h1",
        {
            "mamba_d_ssm": 128,
            "mamba_n_heads": 4,
            "mamba_d_head": 32,
            "mamba_d_state": 16,
            "mamba_n_groups": 1,
        },
    ),
    "Cohere": Family("cohere"),
    "Cohere 2": Family("cohere2", why="up to its sliding window; vLLM differs behind it"),
    "Granite": Family("granite"),
    "StableLM": Family("stablelm"),
    "GLM": Family("glm", {"head_dim": 32}),
    "GLM-4": Family("glm4", {"head_dim": 32}),
    "OLMo": Family("olmo"),
    "OLMo 2": Family("olmo2"),
    "OLMo 3": Family("olmo3", {"sliding_window": 8}),
    "SmolLM3": Family("smollm3"),
    "Nemotron": Family("nemotron"),
    "StarCoder2": Family("starcoder2"),
    "EXAONE 4": Family("exaone4", {"sliding_window": 8}),
    "ERNIE 4.5": Family("ernie4_5", {"head_dim": 32}),
    "Seed-OSS": Family("seed_oss", {"head_dim": 32}),
    "GPT-NeoX": Family("gpt_neox", common=ALL_HEADS),
    "GPT-J": Family("gptj", {"rotary_dim": 16}, GPT),
    "GPT-BigCode": Family("gpt_bigcode", common=GPT),
    "BLOOM": Family("bloom", {"n_layer": 2, "n_head": 4}, ALL_HEADS),
    "MPT": Family(
        "mpt",
        {"d_model": 128, "n_heads": 4, "n_layers": 2, "max_seq_len": 256},
        ALL_HEADS,
        "at once",
        "vLLM has dropped it",
    ),
    "Mamba": Family("mamba", {"state_size": 16}, refused="by the check", why="no kernel for CPUs"),
    "Mamba 2": Family("mamba2", {"state_size": 16, "num_heads": 8, "head_dim": 32, "n_groups": 1}),
    "Mixtral": Family("mixtral", EXPERTS),
    "Qwen2-MoE": Family("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 64}),
    "Qwen3-MoE": Family("qwen3_moe", {**EXPERTS, "head_dim": 32}),
    "OLMoE": Family("olmoe", EXPERTS),
    "GraniteMoE": Family("granitemoe", EXPERTS),
    "GLM-4-MoE": Family(
        "glm4_moe", {**EXPERTS, "head_dim": 32, "n_routed_experts": 4, "first_k_dense_replace": 1}
    ),
    "DeepSeek-V2": Family(
        "deepseek_v2",
        {
            **EXPERTS,
            **LATENT,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "n_group": 1,
            "topk_group": 1,
            "topk_method": "greedy",
            "scoring_func": "softmax",
            "first_k_dense_replace": 1,
        },
    ),
    "DeepSeek-V3": Family(
        "deepseek_v3",
        {
            **EXPERTS,
            **LATENT,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "n_group": 2,
            "topk_group": 1,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "first_k_dense_replace": 1,
        },
    ),
    "gpt-oss": Family("gpt_oss", {**EXPERTS, "head_dim": 32, "sliding_window": 8}),
    "LFM2": Family(
        "lfm2",
        {
            "layer_types": ["conv", "full_attention"],
            "block_auto_adjust_ff_dim": False,
            "conv_dim": 128,
            "block_dim": 128,
            "block_ff_dim": 256,
        },
        refused="by the check",
        why="its attention differs",
    ),
    "Qwen3-Next": Family(
        "qwen3_next",
        {
            **EXPERTS,
            "head_dim": 32,
            "shared_expert_intermediate_size": 64,
            **LINEAR,
        },
        refused="by the check",
        why="no float32 kernel for CPUs",
    ),
    "Qwen3.5": Family(
        "qwen3_5",
        _text(
            {
                "head_dim": 32,
                **LINEAR,
            }
        ),
        {},
        "at once",
        "vLLM wants torchvision for it",
    ),
}


def make(family: Family, folder: Path) -> None:
    """Write a model with random weights, of which every tensor matters, and the tiny tokenizer."""
    config = AutoConfig.for_model(family.kind, **{**family.common, **family.options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=parameter.shape[-1] ** -0.5)
                else:
                    parameter += 0.1 * torch.randn_like(parameter)
            for name, buffer in model.named_buffers():
                if name.endswith("e_score_correction_bias"):
                    buffer += 0.1 * torch.randn_like(buffer)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_folder()).save_pretrained(folder)


def sequences() -> list[list[int]]:
    """Two sequences of token ids, the second longer than every sliding window."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(VOCABULARY - 4, (length,), generator=generator).tolist() for length in (7, 40)]


def streamed(centre: nn.Module, scale: float = 0.0) -> Iterator[tuple[str, Tensor]]:
    """What a checkpoint of the centre holds, each parameter with noise in proportion to its own size."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in centre.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        size = parameter.detach().square().mean().sqrt()
        yield name, parameter.detach() + scale * size * noise
    yield from persistent_buffers(centre).items()
