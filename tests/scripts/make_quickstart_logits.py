"""Writes what transformers computes with the quickstart's model, for `burnish verify`.

    python tests/scripts/make_quickstart_logits.py recipes/assets/quickstart

Versions: requirements.txt.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = "Table for 4 at Luigi's on Friday at 7 pm, please."


def main(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    text = tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}], tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(text, add_special_tokens=False)
    with torch.no_grad():
        inputs = torch.tensor([ids])
        output = model(inputs, labels=inputs)
        answer = model.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=64, do_sample=False)
    golden = {
        "prompt": PROMPT,
        "answer": tokenizer.decode(answer[0, len(ids) :], skip_special_tokens=True),
        "input_ids": ids,
        "loss": round(output.loss.item(), 7),
        "last_logits": [round(value, 5) for value in output.logits[0, -1].tolist()],
    }
    (folder / "logits.json").write_text(json.dumps(golden) + "\n")


main(Path(sys.argv[1]))
