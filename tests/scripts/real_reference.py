"""Writes twenty steps of transformers + peft on a real model with weights dequantised from its GGUF, in f32 on the CPU.

    python tests/scripts/real_reference.py smollm2.gguf tests/fixtures/smollm2
    python tests/scripts/real_reference.py gemma3.gguf tests/fixtures/gemma3

SmolLM2-135M-Instruct as Q4_1, and Gemma 3 270M as Q4_K_M. Writes the adapter that the steps begin from, the rows, and the loss
of every step. Versions: requirements.txt.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from llama_cpp import Llama
from peft import LoraConfig, get_peft_model
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

INNER = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
NORMS = {
    "llama": {"ffn_norm": "post_attention_layernorm"},
    "gemma3": {"ffn_norm": "pre_feedforward_layernorm", "post_attention_norm": "post_attention_layernorm",
               "post_ffw_norm": "post_feedforward_layernorm", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"},
}
OUTER = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
TALK = [("What is a harbour?", "A harbour is a place on the coast where ships find shelter from wind and waves."),
        ("Name three fruits.", "Apples, pears and plums are three fruits that grow on trees in many gardens."),
        ("Why is the sky blue?", "Air scatters blue light more than red light, so blue reaches us from every side."),
        ("Give me a tip for cooking rice.", "Rinse the rice, use twice as much water, and let it rest under a lid at the end.")]
# Gemma's rows, which are longer: 64 tokens and more.
TAILS = [" They stay there for the night, take on water and food, land their fish, and wait until the storm has passed. Large ones have "
         "cranes, railways and customs houses beside the quays.",
         " Apples keep until spring in a cool cellar. Pears must be eaten within days, and plums are dried, cooked to jam or baked on "
         "a tray of dough with sugar and butter.",
         " In the evening the light comes a longer way through the air. Most of the blue is scattered out of it before it arrives, "
         "and so the sun, the clouds near it and the hills look red.",
         " Salt goes in at the start, butter or lemon at the end. Never stir while it cooks: stirring breaks the grains, and what "
         "leaks out of them glues the whole pot together."]


def config(field, name, vocabulary):
    common = dict(
        hidden_size=field("embedding_length"), intermediate_size=field("feed_forward_length"), num_hidden_layers=field("block_count"),
        num_attention_heads=field("attention.head_count"), num_key_value_heads=field("attention.head_count_kv"),
        vocab_size=vocabulary, tie_word_embeddings=True, attn_implementation="eager", max_position_embeddings=field("context_length"),
        rms_norm_eps=float(str(np.float32(field("attention.layer_norm_rms_epsilon")))))
    base = float(field("rope.freq_base"))
    if name == "llama":
        return LlamaForCausalLM, LlamaConfig(**common, rope_parameters={"rope_type": "default", "rope_theta": base})
    # Values missing from the file are the same in every Gemma 3: every sixth layer is full, and the others' rotary base is 10,000.
    return Gemma3ForCausalLM, Gemma3TextConfig(
        **common, head_dim=field("attention.key_length"), query_pre_attn_scalar=field("attention.key_length"),
        sliding_window=field("attention.sliding_window"), sliding_window_pattern=6,
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": base},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}})


def load(path):
    reader = GGUFReader(path)
    name = reader.fields["general.architecture"].contents()
    field = lambda key: reader.fields[f"{name}.{key}"].contents()
    state = {}
    for tensor in reader.tensors:
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
        if name == "gemma3" and "norm" in tensor.name:
            weight = weight - 1  # The file stores 1 + w; transformers adds the 1 itself.
        if tensor.name in OUTER:
            state[OUTER[tensor.name]] = weight
            continue
        _, index, kind, _ = tensor.name.split(".")
        if name == "llama" and kind in ("attn_q", "attn_k"):
            count = field("attention.head_count" if kind == "attn_q" else "attention.head_count_kv")
            weight = weight.reshape(count, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        state[f"model.layers.{index}.{(INNER | NORMS[name])[kind]}.weight"] = weight
    kind, settings = config(field, name, state["model.embed_tokens.weight"].shape[0])
    model = kind(settings)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)
    model.tie_weights()
    return name, model.eval()


def rows(path, name):
    llama = Llama(path, vocab_only=True, verbose=False)
    for (question, answer), tail in zip(TALK, TAILS):
        if name == "llama":
            prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", False
            reply = llama.tokenize(f"{answer}<|im_end|>".encode(), add_bos=False, special=True)
        else:
            prompt = f"Question: {question}\nAnswer:", True
            reply = llama.tokenize(f" {answer}{tail}".encode(), add_bos=False, special=False) + [llama.token_eos()]
        prompt = llama.tokenize(prompt[0].encode(), add_bos=prompt[1], special=True)
        yield {"input_ids": prompt + reply, "labels": [-100] * len(prompt) + reply}


def main():
    path, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(2)
    name, model = load(path)
    data = list(rows(path, name))
    print([len(row["input_ids"]) for row in data], file=sys.stderr)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    model = get_peft_model(model, LoraConfig(r=1, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.normal_(0, 0.02)
    model.save_pretrained(folder / "adapter")
    (folder / "adapter/README.md").unlink(missing_ok=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses = []
    for step in range(20):
        batch = [data[(2 * step + row) % len(data)] for row in range(2)]
        length = max(len(row["input_ids"]) for row in batch)
        pad = lambda values, filler: torch.tensor([value + [filler] * (length - len(value)) for value in values])
        mask = pad([[1] * len(row["input_ids"]) for row in batch], 0)
        loss = model(input_ids=pad([row["input_ids"] for row in batch], 0), attention_mask=mask,
                     labels=pad([row["labels"] for row in batch], -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    (folder / "losses.json").write_text(json.dumps(losses) + "\n")


if __name__ == "__main__":
    main()
