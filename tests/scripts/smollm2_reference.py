"""Twenty steps of transformers + peft on SmolLM2-135M-Instruct, weights dequantised from its Q4_1 GGUF.

    python tests/scripts/smollm2_reference.py smollm2.gguf tests/fixtures/smollm2

Writes the adapter that the steps begin from, the rows, and the loss of every step. Versions: requirements.txt.
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
from transformers import LlamaConfig, LlamaForCausalLM

INNER = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
         "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
OUTER = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
TALK = [("What is a harbour?", "A harbour is a place on the coast where ships find shelter from wind and waves."),
        ("Name three fruits.", "Apples, pears and plums are three fruits that grow on trees in many gardens."),
        ("Why is the sky blue?", "Air scatters blue light more than red light, so blue reaches us from every side."),
        ("Give me a tip for cooking rice.", "Rinse the rice, use twice as much water, and let it rest under a lid at the end.")]


def load(path):
    reader = GGUFReader(path)
    field = lambda key: reader.fields[key].contents()
    heads, pairs = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    state = {}
    for tensor in reader.tensors:
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
        if tensor.name in OUTER:
            state[OUTER[tensor.name]] = weight
            continue
        _, index, kind, _ = tensor.name.split(".")
        if kind in ("attn_q", "attn_k"):
            count = heads if kind == "attn_q" else pairs
            weight = weight.reshape(count, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        state[f"model.layers.{index}.{INNER[kind]}.weight"] = weight
    config = LlamaConfig(
        hidden_size=field("llama.embedding_length"), intermediate_size=field("llama.feed_forward_length"),
        num_hidden_layers=field("llama.block_count"), num_attention_heads=heads, num_key_value_heads=pairs,
        vocab_size=state["model.embed_tokens.weight"].shape[0], tie_word_embeddings=True, attn_implementation="eager",
        rms_norm_eps=float(str(np.float32(field("llama.attention.layer_norm_rms_epsilon")))),
        rope_parameters={"rope_type": "default", "rope_theta": float(field("llama.rope.freq_base"))},
        max_position_embeddings=field("llama.context_length"))
    model = LlamaForCausalLM(config)
    print(model.load_state_dict(state, strict=False), file=sys.stderr)
    model.tie_weights()
    return model.eval()


def rows(path):
    llama = Llama(path, vocab_only=True, verbose=False)
    for question, answer in TALK:
        prompt = llama.tokenize(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n".encode(), add_bos=False, special=True)
        reply = llama.tokenize(f"{answer}<|im_end|>".encode(), add_bos=False, special=True)
        yield {"input_ids": prompt + reply, "labels": [-100] * len(prompt) + reply}


def main():
    path, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    data = list(rows(path))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = get_peft_model(load(path), LoraConfig(r=1, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
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
