"""Writes the results of TRL's preference trainers for two pairs of answers.

    python tests/scripts/make_preferences.py tests/fixtures

The model is `parity/llama`. `preferences/policy` is its adapter with slightly changed weights. The reference is the base model (case
`fresh`) or the unchanged adapter (case `adapter`); in case `swapped` that one learns, and the policy is the reference. `dpo.safetensors` has the batch and, for each reference and smoothing, the loss, TRL's
metrics and the gradients of the adapter. `losses.safetensors` has loss and metrics of the other losses and recipes, for some with the
gradients of two projections. Versions: requirements.txt.
"""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from datasets.table import InMemoryTable
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

BETA = 0.3
REWARDS = ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected"]
RATED = ["rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected", "kl"]
PROMPTS, ANSWERS = [3, 4], [5, 2, 4, 6]


def batch():
    """Chosen answers, then rejected ones, as TRL lays them out; prompts of 3 and 4 tokens, answers of 5, 2, 4, 6."""
    generator = torch.Generator().manual_seed(9)
    answers = len(ANSWERS)
    ids = torch.randint(3, 96, (answers, 10), generator=generator)
    attention, completion = torch.zeros_like(ids), torch.zeros_like(ids)
    for row in range(answers):
        prompt = PROMPTS[row % 2]
        ids[row, :prompt] = ids[row % 2, :prompt]
        attention[row, : prompt + ANSWERS[row]] = 1
        completion[row, prompt : prompt + ANSWERS[row]] = 1
    ids[attention == 0] = 0
    return dict(input_ids=ids, attention_mask=attention, completion_mask=completion)


def of_cpo(inputs):
    """The same rows as CPO and ORPO take them."""
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    rows = {"chosen": slice(0, 2), "rejected": slice(2, 4)}
    tensors = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "labels": labels}
    return {f"{kind}_{name}": tensor[part] for kind, part in rows.items() for name, tensor in tensors.items()}


def of_kto(inputs):
    """The same rows one by one, with the answer of the row before for the KL term, as KTO's trainer prepares them."""
    prompts = [inputs["input_ids"][row, : PROMPTS[row % 2]].tolist() for row in range(4)]
    answers = [inputs["input_ids"][row, PROMPTS[row % 2] :][: ANSWERS[row]].tolist() for row in range(4)]
    rotated = [answers[-1]] + answers[:-1]
    rows = [dict(prompt_ids=prompts[row], completion_ids=answers[row], KL_completion_ids=rotated[row], label=row < 2) for row in range(4)]
    return DataCollatorForUnpairedPreference(pad_token_id=0)(rows)


def trainer_of(kind, config, model, peft_config=None, **arguments):
    words = Tokenizer(models.WordLevel({str(i): i for i in range(96)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="2", bos_token="1")
    args = config(output_dir="/tmp/burnish-preferences", beta=BETA, report_to="none", use_cpu=True, bf16=False,
                  gradient_checkpointing=False, **arguments)
    # The trainer needs a data set, but its rows are not used here. A fixed fingerprint avoids hashing.
    rows = dict(prompt=["3", "4"], chosen=[" 5", " 6"], rejected=[" 7", " 8"])
    if kind is KTOTrainer:
        rows = dict(prompt=["3", "4"], completion=[" 5", " 6"], label=[True, False])
    rows = Dataset(InMemoryTable.from_pydict(rows), fingerprint="rows")
    return kind(model=model, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=peft_config)


def set_adapter(model, tensors):
    names = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            names[name.replace(".weight", ".default.weight")].copy_(tensor)


class Cases:
    def __init__(self, base, adapter, policy, folder):
        self.base, self.adapter, self.policy, self.folder = base, adapter, policy, folder

    def load(self):
        return AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32, attn_implementation="eager")

    def trainer(self, reference, kind, config, **arguments):
        """A trainer of the policy, against the base model or the unchanged adapter, or the other way round."""
        if reference in ["adapter", "swapped"]:
            folder = self.folder if reference == "swapped" else self.base / "adapter"
            model = PeftModel.from_pretrained(self.load(), folder, is_trainable=True)
            trainer = trainer_of(kind, config, model, **arguments)
        else:
            lora = LoraConfig.from_pretrained(self.base / "adapter")
            lora.inference_mode = False
            trainer = trainer_of(kind, config, self.load(), lora, **arguments)
        set_adapter(trainer.model, self.adapter if reference == "swapped" else self.policy)
        trainer.model.train()
        trainer.model.zero_grad()
        return trainer

    def write(self, golden, key, trainer, inputs, metrics, projections=("",)):
        """Adds loss, metrics and the gradients of some projections."""
        if isinstance(trainer, (CPOTrainer, ORPOTrainer)):
            loss, found = trainer.get_batch_loss_metrics(trainer.model, inputs)
        else:
            loss = trainer._compute_loss(trainer.model, inputs, False)
            found = {name: values[-1] for name, values in trainer._metrics["train"].items()}
        loss.backward()
        golden[f"{key}.loss"] = loss.detach().reshape(1)
        golden[f"{key}.metrics"] = torch.tensor([found[name] for name in metrics])
        for name, parameter in trainer.model.named_parameters():
            if parameter.grad is not None and ".default." in name and any(part in name for part in projections):
                golden[f"{key}.grad.{name.replace('.default', '')}"] = parameter.grad.clone()
        print(key, loss.item(), {name: round(float(found[name]), 5) for name in metrics})


def main():
    fixtures = Path(sys.argv[1])
    base, target = fixtures / "parity/llama", fixtures / "preferences"
    target.mkdir(exist_ok=True)
    adapter = load_file(base / "adapter/adapter_model.safetensors")
    generator = torch.Generator().manual_seed(3)
    policy = {name: t + 0.05 * torch.randn(t.shape, generator=generator) for name, t in adapter.items()}
    folder = target / "policy"
    folder.mkdir(exist_ok=True)
    save_file(policy, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text((base / "adapter/adapter_config.json").read_text())
    inputs, cases = batch(), Cases(base, adapter, policy, folder)
    golden = {key: value.to(torch.int32).contiguous() for key, value in inputs.items()}
    for reference in ["fresh", "adapter"]:
        for smoothing in [0.0, 0.2]:
            loss_type = ["robust" if smoothing else "sigmoid"]
            trainer = cases.trainer(reference, DPOTrainer, DPOConfig, label_smoothing=smoothing, loss_type=loss_type)
            cases.write(golden, f"{reference}.{smoothing}", trainer, dict(inputs), REWARDS)
    save_file(golden, target / "dpo.safetensors")

    golden, some = {}, ("layers.0.self_attn.q_proj", "layers.1.mlp.down_proj")
    for loss_type in ["hinge", "ipo", "sigmoid_norm", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down"]:
        trainer = cases.trainer("fresh", DPOTrainer, DPOConfig, loss_type=[loss_type])
        cases.write(golden, f"dpo.{loss_type}", trainer, dict(inputs), REWARDS, some if loss_type == "ipo" else ())
    trainer = cases.trainer("fresh", DPOTrainer, DPOConfig, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5])
    cases.write(golden, "dpo.sft", trainer, dict(inputs), REWARDS, some)

    trainer = cases.trainer("fresh", ORPOTrainer, ORPOConfig)
    cases.write(golden, "orpo", trainer, of_cpo(inputs), [*REWARDS, "nll_loss", "log_odds_ratio", "log_odds_chosen"], some)
    for loss_type, alpha, gradients in [("sigmoid", 1.0, some), ("hinge", 0.5, ()), ("ipo", 0.5, ()), ("simpo", 0.5, ())]:
        trainer = cases.trainer("fresh", CPOTrainer, CPOConfig, loss_type=loss_type, cpo_alpha=alpha, label_smoothing=0.1)
        cases.write(golden, f"cpo.{loss_type}", trainer, of_cpo(inputs), [*REWARDS, "nll_loss"], gradients)
    trainer = cases.trainer("fresh", CPOTrainer, CPOConfig, loss_type="simpo", cpo_alpha=0.0, simpo_gamma=0.7)
    cases.write(golden, "simpo", trainer, of_cpo(inputs), REWARDS, some)

    weights = dict(desirable_weight=1.5, undesirable_weight=0.7, per_device_train_batch_size=2)
    for reference, gradients in [("fresh", ()), ("adapter", some), ("swapped", some)]:
        trainer = cases.trainer(reference, KTOTrainer, KTOConfig, **weights)
        cases.write(golden, f"kto.{reference}", trainer, of_kto(inputs), RATED, gradients)
    trainer = cases.trainer("fresh", KTOTrainer, KTOConfig, loss_type="apo_zero_unpaired", **weights)
    cases.write(golden, "kto.apo_zero_unpaired", trainer, of_kto(inputs), RATED, ())
    save_file(golden, target / "losses.safetensors")


if __name__ == "__main__":
    main()
