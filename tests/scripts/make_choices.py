"""Scores multiple-choice questions by lm-evaluation-harness, on the model of the quickstart.

    python tests/scripts/make_choices.py recipes/assets/quickstart/model tests/fixtures/choices

`task.jsonl` has the questions in each of the forms that `burnish eval --task` reads, and `scores.json` what the harness says of them:
log-likelihoods, `acc`, `acc_norm` and `acc_bytes`, with the questions as plain text and as messages. Versions: requirements.txt.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

# The row as it is written, its choices, and the index of the right one.
ROWS = [
    {"question": "Table for 2 at La Perla on Friday at 4 pm,", "choices": ["please.", "banana", "tomorrow"], "answer": 0},
    {"prompt": "I need a table for 3 people on", "options": ["the", "Monday", "Sakura"], "answer": "Monday"},
    {"context": "Can you book ", "endings": ["Luigi's on Sunday, 5 pm? There are 4 of us.", "a", "Luigi's"], "label": "2"},
    {"question": "Sure! I noted a", "choices": {"text": ["chair", "table for 4"], "label": ["A", "B"]}, "answer": "B"},
    {"question": "We want", "choices": ["é", "to be at the Tin Roof", "ääääää", "at"], "gold": "d"},
    {"question": "On Wednesday at 10", "choices": [" am", " pm", " éééé", " o'clock"], "answer": "C"},
    {"question": "people at Maple", "choices": ["House", "Höuse", "日本日本", "日"], "answer": 2},
    {"question": "a place for lunch:", "choices": ["XQZ#", "ääääää"], "answer": 1},
    {"question": "a place for lunch: ", "choices": ["Sakura", "日本日本日本", "La Perla, on Thursday"], "answer": "a"},
]
TEXT, CHOICES, ANSWER = ("question", "prompt", "context"), ("choices", "options", "endings"), ("answer", "label", "gold")


def plain(row):
    """Text, choices and index of a row."""
    text, choices, answer = (next(row[key] for key in keys if key in row) for keys in (TEXT, CHOICES, ANSWER))
    labels = "abcdefgh"
    if isinstance(choices, dict):
        choices = choices["text"]
    if isinstance(answer, int):
        index = answer
    elif answer in choices:
        index = choices.index(answer)
    else:
        index = int(answer) if answer.isdigit() else labels.index(answer.lower())
    # The harness has one delimiter a task; white space on either side replaces it.
    delimiter = "" if text[-1].isspace() or choices[0][0].isspace() else " "
    return {"text": text, "choices": choices, "right": index, "delimiter": delimiter}


def score(model, rows, delimiter, chat, folder):
    """What the harness says of rows with this delimiter."""
    name = f"rows{len(delimiter)}{int(chat)}"
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test",
        "output_type": "multiple_choice", "doc_to_text": "{{text}}", "doc_to_choice": "{{choices}}", "doc_to_target": "right",
        "target_delimiter": delimiter,
        "metric_list": [{"metric": metric} for metric in ("acc", "acc_norm", "acc_bytes")],
    }
    found = simple_evaluate(model=model, tasks=[task], task_manager=TaskManager(), apply_chat_template=chat, log_samples=True,
                            bootstrap_iters=0)
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    return [{"log_likelihoods": [float(response[0][0]) for response in sample["resps"]],
             **{metric: bool(sample[metric]) for metric in ("acc", "acc_norm", "acc_bytes")}} for sample in samples]


def make(path, target):
    tokenizer = AutoTokenizer.from_pretrained(path)
    network = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    rows = [plain(row) for row in ROWS]
    scores = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, chat in (("plain", False), ("chat", True)):
            model = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=1, device="cpu")
            found = [None] * len(rows)
            for delimiter in ("", " "):
                places = [at for at, row in enumerate(rows) if row["delimiter"] == delimiter]
                part = score(model, [rows[at] for at in places], delimiter, chat, Path(folder))
                for at, result in zip(places, part, strict=True):
                    found[at] = result
            scores[name] = found
    target.mkdir(exist_ok=True)
    (target / "task.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS))
    (target / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    make(Path(sys.argv[1]), Path(sys.argv[2]))
