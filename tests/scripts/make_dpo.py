"""Writes the results of TRL's DPOTrainer for two pairs of answers.

    python tests/scripts/make_dpo.py tests/fixtures

The model is `parity/llama`. `dpo/policy` is its adapter with slightly changed weights. The reference is the base model (case `fresh`) or
the unchanged adapter (case `adapter`). `golden.safetensors` has the batch and, for each case and smoothing, the loss, TRL's metrics and
the gradients of the adapter. Versions: requirements.txt.
"""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from datasets.table import InMemoryTable
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from tokenizers import Tokenizer, models
from trl import DPOConfig, DPOTrainer

BETA = 0.3
METRICS = ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected"]


def batch():
    """Chosen answers, then rejected ones, as TRL lays them out; prompts of 3 and 4 tokens, answers of 5, 2, 4, 6."""
    generator = torch.Generator().manual_seed(9)
    prompts, lengths, answers = [3, 4], [5, 2, 4, 6], 4
    ids = torch.randint(3, 96, (answers, 10), generator=generator)
    attention, completion = torch.zeros_like(ids), torch.zeros_like(ids)
    for row in range(answers):
        prompt = prompts[row % 2]
        ids[row, :prompt] = ids[row % 2, :prompt]
        attention[row, : prompt + lengths[row]] = 1
        completion[row, prompt : prompt + lengths[row]] = 1
    ids[attention == 0] = 0
    return dict(input_ids=ids, attention_mask=attention, completion_mask=completion)


def trainer_of(model, smoothing, peft_config=None):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({str(i): i for i in range(96)}, unk_token="0")),
                                        pad_token="0", eos_token="2")
    args = DPOConfig(output_dir="/tmp/burnish-dpo", beta=BETA, label_smoothing=smoothing, report_to="none", use_cpu=True, bf16=False,
                     loss_type=["robust" if smoothing else "sigmoid"], gradient_checkpointing=False)
    # The trainer needs a data set, but its rows are not used here. A fixed fingerprint avoids hashing.
    rows = Dataset(InMemoryTable.from_pydict(dict(prompt=["3"], chosen=["5"], rejected=["6"])), fingerprint="rows")
    return DPOTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=peft_config)


def set_adapter(model, tensors):
    names = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            names[name.replace(".weight", ".default.weight")].copy_(tensor)


def main():
    fixtures = Path(sys.argv[1])
    base, target = fixtures / "parity/llama", fixtures / "dpo"
    target.mkdir(exist_ok=True)
    adapter = load_file(base / "adapter/adapter_model.safetensors")
    generator = torch.Generator().manual_seed(3)
    policy = {name: t + 0.05 * torch.randn(t.shape, generator=generator) for name, t in adapter.items()}
    inputs = batch()
    golden = {key: value.to(torch.int32).contiguous() for key, value in inputs.items()}
    load = lambda: AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    for case in ["fresh", "adapter"]:
        for smoothing in [0.0, 0.2]:
            if case == "fresh":
                config = LoraConfig.from_pretrained(base / "adapter")
                config.inference_mode = False
                trainer = trainer_of(load(), smoothing, config)
            else:
                trainer = trainer_of(PeftModel.from_pretrained(load(), base / "adapter", is_trainable=True), smoothing)
            model = trainer.model
            set_adapter(model, policy)
            model.train()
            model.zero_grad()
            loss = trainer._compute_loss(model, dict(inputs), False)
            loss.backward()
            key = f"{case}.{smoothing}"
            golden[f"{key}.loss"] = loss.detach().reshape(1)
            golden[f"{key}.metrics"] = torch.tensor([trainer._metrics["train"][name][-1] for name in METRICS])
            for name, parameter in model.named_parameters():
                if parameter.grad is not None and ".default." in name:
                    golden[f"{key}.grad.{name.replace('.default', '')}"] = parameter.grad.clone()
            print(key, loss.item(), dict(zip(METRICS, golden[f"{key}.metrics"].tolist())))
    folder = target / "policy"
    folder.mkdir(exist_ok=True)
    save_file(policy, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text((base / "adapter/adapter_config.json").read_text())
    save_file(golden, target / "golden.safetensors")


if __name__ == "__main__":
    main()
