"""Writes tiny random checkpoints, and the results of transformers and PEFT for them.

    python tests/scripts/make_parity.py tests/fixtures/parity [CASE…]

Each folder has a checkpoint, a PEFT adapter, and `golden.safetensors` with inputs, logits, losses, the gradient of every adapter tensor,
and the losses and the resulting adapter of ten AdamW steps. Versions: requirements.txt.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (Exaone4Config, Exaone4ForCausalLM,
                          Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, GemmaConfig, GemmaForCausalLM,
                          GptOssConfig, GptOssForCausalLM, GraniteConfig,
                          GraniteForCausalLM, GraniteMoeHybridConfig, GraniteMoeHybridForCausalLM, LlamaConfig,
                          LlamaForCausalLM, Ministral3Config, Ministral3ForCausalLM, MistralConfig, MistralForCausalLM,
                          Olmo2Config, Olmo2ForCausalLM, Olmo3Config, Olmo3ForCausalLM, Phi3Config, Phi3ForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM,
                          SeedOssConfig, SeedOssForCausalLM, SmolLM3Config, SmolLM3ForCausalLM)

BASE = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, max_position_embeddings=64,
            bos_token_id=1, eos_token_id=2, pad_token_id=0, attn_implementation="eager")

LONGROPE = dict(rope_type="longrope", rope_theta=500.0, short_factor=[1.0, 1.05, 1.2, 1.5, 2.0, 3.0], long_factor=[9.0] * 6)
YARN = dict(rope_type="yarn", rope_theta=500.0, mscale=1.0, mscale_all_dim=1.0, beta_fast=24.0, beta_slow=0.5)
EXPERTS = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=12, num_experts=8, num_experts_per_tok=3,
               moe_intermediate_size=16)
OSS = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=6)
OSS_YARN = dict(rope_type="yarn", rope_theta=500.0, factor=8.0, beta_fast=32.0, beta_slow=1.0, original_max_position_embeddings=16)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FUSED = dict(target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"])

# The class; its configuration; how the checkpoint is saved: the type, the size of a shard, the mean of norms (1), and whether there are
# gradients of all weights too (for families with blocks of their own); what the adapter has beyond the defaults.
CASES = {
    "llama": (LlamaForCausalLM, LlamaConfig(**BASE, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False),
              dict(dtype=torch.float32, shard="40KB", full=True), dict()),
    "llama3": (LlamaForCausalLM, LlamaConfig(**BASE, num_attention_heads=4, num_key_value_heads=1, tie_word_embeddings=True,
               rope_parameters=dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                    original_max_position_embeddings=16)),
               dict(dtype=torch.bfloat16), dict(use_rslora=True)),
    "mistral": (MistralForCausalLM, MistralConfig(**BASE, num_attention_heads=2, num_key_value_heads=1, head_dim=10,
                sliding_window=6, tie_word_embeddings=False), dict(dtype=torch.float16), dict()),
    "biased": (LlamaForCausalLM, LlamaConfig(**{**BASE, "hidden_size": 24}, num_attention_heads=3, num_key_value_heads=1,
               tie_word_embeddings=True, attention_bias=True, mlp_bias=True), dict(dtype=torch.float32),
               dict(target_modules=["q_proj", "v_proj", "down_proj"])),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**BASE, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
              rope_parameters=dict(rope_type="default", rope_theta=1e6)), dict(dtype=torch.bfloat16), dict()),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**BASE, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
              tie_word_embeddings=False, rope_parameters=dict(rope_type="default", rope_theta=1e6)),
              dict(dtype=torch.float16), dict()),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig(**{**BASE, "num_hidden_layers": 3}, num_attention_heads=4,
               num_key_value_heads=2, head_dim=12, query_pre_attn_scalar=12, sliding_window=6, sliding_window_pattern=2,
               rope_scaling=dict(rope_type="linear", factor=8.0)), dict(dtype=torch.bfloat16, norm=0, full=True), dict()),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config(**BASE, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
              rope_parameters=dict(rope_type="default", rope_theta=5e5)), dict(dtype=torch.bfloat16, full=True), dict()),
    "granite": (GraniteForCausalLM, GraniteConfig(**BASE, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
                attention_multiplier=0.2, embedding_multiplier=6.0, residual_multiplier=0.22, logits_scaling=3.0),
                dict(dtype=torch.bfloat16, full=True), dict()),
    "smollm3": (SmolLM3ForCausalLM, SmolLM3Config(**{**BASE, "num_hidden_layers": 5}, num_attention_heads=4, num_key_value_heads=2,
                tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=5e5)), dict(dtype=torch.bfloat16),
                dict()),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(**{**BASE, "num_hidden_layers": 3}, num_attention_heads=4, num_key_value_heads=2,
               head_dim=12, query_pre_attn_scalar=12, sliding_window=6, attn_logit_softcapping=0.5, final_logit_softcapping=2.5),
               dict(dtype=torch.bfloat16, norm=0, full=True), dict()),
    "olmo3": (Olmo3ForCausalLM, Olmo3Config(**{**BASE, "num_hidden_layers": 3}, num_attention_heads=4, num_key_value_heads=2,
              sliding_window=6, layer_types=["sliding_attention", "full_attention", "sliding_attention"], rope_parameters=dict(
                  sliding_attention=dict(rope_type="default", rope_theta=500.0),
                  full_attention=dict(rope_type="yarn", rope_theta=500.0, factor=8.0, original_max_position_embeddings=8))),
              dict(dtype=torch.bfloat16), dict()),
    "phi3": (Phi3ForCausalLM, Phi3Config(**BASE, num_attention_heads=2, num_key_value_heads=1, original_max_position_embeddings=16,
             rope_parameters=LONGROPE | dict(partial_rotary_factor=0.75)), dict(dtype=torch.bfloat16, full=True), FUSED),
    # Texts longer than the original context.
    "phi3-long": (Phi3ForCausalLM, Phi3Config(**BASE, num_attention_heads=2, tie_word_embeddings=True,
                  original_max_position_embeddings=4, rope_parameters=LONGROPE | dict(
                      short_factor=[9.0] * 8, long_factor=[1.0, 1.1, 1.3, 1.8, 2.5, 4.0, 7.0, 11.0])),
                  dict(dtype=torch.float16), FUSED),
    "ministral3": (Ministral3ForCausalLM, Ministral3Config(**BASE, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
                   rope_parameters=YARN | dict(factor=16.0, original_max_position_embeddings=4, llama_4_scaling_beta=0.4)),
                   dict(dtype=torch.bfloat16, full=True), dict()),
    # Dense: no Mamba layers, no experts.
    "granite4": (GraniteMoeHybridForCausalLM, GraniteMoeHybridConfig(**BASE, num_attention_heads=4, num_key_value_heads=2,
                 tie_word_embeddings=True, attention_multiplier=0.2, embedding_multiplier=6.0, residual_multiplier=0.22,
                 logits_scaling=3.0, num_local_experts=0, num_experts_per_tok=0, shared_intermediate_size=48,
                 position_embedding_type="rope", layer_types=["attention", "attention"], mamba_n_heads=4),
                 dict(dtype=torch.bfloat16), dict(target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "input_linear",
                                                                  "output_linear"])),
    "qwen3moe": (Qwen3MoeForCausalLM, Qwen3MoeConfig(**BASE, **EXPERTS, norm_topk_prob=True, tie_word_embeddings=False),
                 dict(dtype=torch.bfloat16), dict(target_modules=ATTENTION)),
    # Every other layer has no experts, and the shares of experts do not add up to 1.
    "qwen3moe-mixed": (Qwen3MoeForCausalLM, Qwen3MoeConfig(**BASE, **EXPERTS, decoder_sparse_step=2, tie_word_embeddings=True),
                       dict(dtype=torch.float16), dict(target_modules=ATTENTION)),
    "gpt-oss": (GptOssForCausalLM, GptOssConfig(**BASE, **OSS, rope_parameters=OSS_YARN | dict(truncate=True)),
                dict(dtype=torch.bfloat16), dict(target_modules=ATTENTION)),
    "gpt-oss-mxfp4": (GptOssForCausalLM, GptOssConfig(**BASE | dict(hidden_size=64, intermediate_size=32), **OSS,
                      rope_parameters=OSS_YARN | dict(truncate=False)),
                      dict(dtype=torch.bfloat16, mxfp4=True), dict(target_modules=ATTENTION)),
    "gemma": (GemmaForCausalLM, GemmaConfig(**BASE, num_attention_heads=4, num_key_value_heads=1, head_dim=12),
              dict(dtype=torch.bfloat16, norm=0), dict()),
    "seed-oss": (SeedOssForCausalLM, SeedOssConfig(**BASE, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
                 rope_parameters=dict(rope_type="default", rope_theta=1e7)), dict(dtype=torch.bfloat16), dict()),
    # As many layers as the 32B model, by which llama.cpp recognises that there are windows, and that full layers don't rotate.
    "exaone4": (Exaone4ForCausalLM, Exaone4Config(**BASE | dict(hidden_size=16, intermediate_size=24, num_hidden_layers=64),
                num_attention_heads=2, num_key_value_heads=1, rms_norm_eps=0.1, sliding_window=6, rope_parameters=dict(
                    rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                    original_max_position_embeddings=16)),
                # With norms of 1 and a small epsilon, the rounding of so many layers would add up to more than the tolerance.
                dict(dtype=torch.bfloat16, norm=0.3), dict(target_modules=["q_proj", "down_proj"])),
    # As the 1.2B model: no windows, and all layers rotate.
    "exaone4-full": (Exaone4ForCausalLM, Exaone4Config(**BASE, num_attention_heads=4, num_key_value_heads=2, sliding_window=None,
                     layer_types=["full_attention"] * 2, tie_word_embeddings=True), dict(dtype=torch.float16), dict()),
}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def inputs():
    """Two rows of 13 and 9 tokens, padded on the right; the prompt is masked."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, 96, (2, 13), generator=generator)
    mask = torch.ones_like(ids)
    ids[1, 9:], mask[1, 9:] = 0, 0
    labels = ids.clone()
    labels[mask == 0] = -100
    labels[0, :4], labels[1, :3] = -100, -100
    return ids, mask, labels


def adapter_tensors(model):
    return {name.replace(".default", ""): p for name, p in model.named_parameters() if "lora_" in name}


def pack_experts(folder):
    """Replaces the experts' weights by random ones in MXFP4: blocks of 32 elements of four bits, with a power of two each."""
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        blocks = [experts, outputs, inputs // 32]
        tensors[f"{name}_blocks"] = torch.randint(0, 256, [*blocks, 16], dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(121, 125, blocks, dtype=torch.uint8)
    save_file(tensors, folder / "model.safetensors", metadata=dict(format="pt"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = dict(quant_method="mxfp4", modules_to_not_convert=[
        "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"])
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def steps(model, batch, clip):
    parameters = [p for p in model.parameters() if p.requires_grad]
    # As in `Trainer.get_decay_parameter_names` of transformers: norms and biases, which are vectors, have no weight decay.
    groups = [dict(params=[p for p in parameters if p.ndim > 1], weight_decay=0.01),
              dict(params=[p for p in parameters if p.ndim == 1], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    losses = []
    for _ in range(10):
        loss = model(**batch).loss
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return torch.tensor(losses)


def make(name, folder):
    kind, config, saving, lora = CASES[name]
    torch.manual_seed(list(CASES).index(name) + 1)
    model = kind(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(saving.get("norm", 1) + 0.1 * noise if "norm" in key else (1.0 if "sinks" in key else 0.2) * noise)
    model = model.to(saving["dtype"])
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, max_shard_size=saving.get("shard", "5GB"))
    if saving.get("mxfp4"):
        pack_experts(folder)
    # Load again instead of casting, since casting the module would also have rounded the rotary frequencies.
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    (folder / "generation_config.json").unlink(missing_ok=True)
    ids, mask, labels = inputs()
    batch = dict(input_ids=ids, attention_mask=mask, labels=labels)
    golden = {"input_ids": ids.to(torch.int32), "attention_mask": mask.to(torch.int32), "labels": labels.to(torch.int32)}
    with torch.no_grad():
        golden["logits"] = model(input_ids=ids, attention_mask=mask).logits
        golden["row_losses"] = torch.stack([
            torch.nn.functional.cross_entropy(model(input_ids=ids[i:i + 1, :n]).logits[0, :-1], labels[i, 1:n], reduction="sum")
            for i, n in [(0, 13), (1, 9)]])
    if saving.get("full"):
        full = kind(config)
        full.load_state_dict(model.state_dict())
        full.eval()
        full(**batch).loss.backward()
        golden.update({f"full_grad.{key}": p.grad.clone() for key, p in full.named_parameters()})
        full.zero_grad()
        golden["full_losses"] = steps(full, batch, None)
    state = model.state_dict()
    settings = dict(r=4, lora_alpha=8, target_modules=ALL, task_type="CAUSAL_LM") | lora

    def adapted():
        base = kind(config)
        base.load_state_dict(state)
        peft = get_peft_model(base.eval(), LoraConfig(**settings))
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter in adapter_tensors(peft).values():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        return peft.eval()

    peft = adapted()
    peft.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink(missing_ok=True)
    # PEFT writes a set, whose order changes from run to run.
    path = folder / "adapter" / "adapter_config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | dict(target_modules=sorted(saved["target_modules"])), indent=2, sort_keys=True))
    output = peft(**batch)
    output.loss.backward()
    golden["adapter_logits"], golden["loss"] = output.logits.detach(), output.loss.detach().reshape(1)
    golden.update({f"grad.{key}": p.grad.clone() for key, p in adapter_tensors(peft).items()})
    for label, clip in [("plain", None), ("clipped", 0.1)]:
        peft = adapted()
        golden[f"{label}.losses"] = steps(peft, batch, clip)
        golden.update({f"{label}.{key}": p.detach().clone() for key, p in adapter_tensors(peft).items()})
    save_file({key: value.contiguous() for key, value in golden.items()}, folder / "golden.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for case in sys.argv[2:] or CASES:
        make(case, Path(sys.argv[1]) / case)
    print(json.dumps(sorted(CASES)))
