"""Writes the configuration keys of other programs, with their defaults, from their pinned packages.

    python tests/scripts/list_peer_keys.py recipes/src/config/reference

Reads the sources of the packages without importing them, so nothing but pip is needed. A line has the key (nested keys with a dot), its
default as JSON (`-` where there is none, or it is computed), and the class or function that declares it, separated by tabs.
"""

import ast
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGES = {
    "mlx-lm": "0.32.2",
    "unsloth": "2026.10.9",
    "axolotl": "0.19.0",
    "llamafactory": "0.9.5",
    "trl": "1.16.0",
    "transformers": "5.23.0",
    "peft": "0.21.0",
}
# The last source archive, which has `unsloth-cli.py`; wheels do not.
UNSLOTH_SOURCE = "2026.3.4"


def unpack(folder: Path) -> None:
    def pip(*arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
        subprocess.run([*command, *arguments], check=True)

    pip("--only-binary=:all:", *(f"{name}=={version}" for name, version in PACKAGES.items()))
    pip("--no-binary=:all:", f"unsloth=={UNSLOTH_SOURCE}")
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)
    for archive in folder.glob("*.tar.gz"):
        tarfile.open(archive).extractall(folder, filter="data")


def literal(node):
    """A default as a value; `...` if it has none, or one that is computed."""
    if isinstance(node, ast.Call):
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in ("field", "Field"):
            if "default" in keywords:
                return literal(keywords["default"])
            return literal(node.args[0]) if node.args else ...
        return literal(node.args[0]) if name == "Path" and node.args else ...
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError):
        return ...
    try:
        json.dumps(value)
    except TypeError:
        return ...
    return value


class Sources:
    """The classes of a package, by name."""

    def __init__(self, folder: Path, paths: list[str]):
        self.trees = {}
        for pattern in paths:
            found = sorted(folder.glob(pattern))
            assert found, pattern
            for path in found:
                self.trees[path] = ast.parse(path.read_text(encoding="utf-8"))
        self.classes = {}
        for tree in self.trees.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    self.classes.setdefault(node.name, node)

    def fields(self, name: str) -> dict:
        """Annotated fields of a class and its bases: key -> (default, class)."""
        node = self.classes[name]
        found = {}
        for base in reversed(node.bases):
            base = base.id if isinstance(base, ast.Name) else getattr(base, "attr", "")
            if base in self.classes and base != name:
                found.update(self.fields(base))
        for item in node.body:
            if not (isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)):
                continue
            key, kind = item.target.id, ast.unparse(item.annotation)
            alias = [keyword.value.value for keyword in getattr(item.value, "keywords", []) if keyword.arg == "alias"]
            if not key.startswith("_") and key != "model_config" and "ClassVar" not in kind and "InitVar" not in kind:
                found[alias[0] if alias else key] = (literal(item.value) if item.value else ..., name)
        return found

    def parameters(self, path: str, owner: str, function: str) -> dict:
        """Parameters of a method."""
        tree = next(tree for name, tree in self.trees.items() if str(name).endswith(path))
        of_class = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == owner)
        node = next(item for item in of_class.body if isinstance(item, ast.FunctionDef) and item.name == function)
        arguments = node.args.args
        defaults = [None] * (len(arguments) - len(node.args.defaults)) + node.args.defaults
        pairs = [*zip(arguments, defaults), *zip(node.args.kwonlyargs, node.args.kw_defaults)]
        where = f"{owner}.{function}"
        return {
            argument.arg: (literal(default) if default is not None else ..., where)
            for argument, default in pairs
            if argument.arg not in ("self", "model", "loader")
        }

    def flags(self, path: str, owner: str) -> dict:
        """Long flags of an argument parser."""
        tree = next(tree for name, tree in self.trees.items() if str(name).endswith(path))
        found = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                names = [literal(name) for name in node.args]
                keywords = {keyword.arg: literal(keyword.value) for keyword in node.keywords}
                for name in names:
                    if isinstance(name, str) and name.startswith("--"):
                        found[name[2:].replace("-", "_")] = (keywords.get("default", ...), owner)
        return found


def nested(prefix: str, keys: dict) -> dict:
    return {f"{prefix}.{key}": value for key, value in keys.items()}


def mlx_lm(folder: Path) -> dict:
    sources = Sources(folder, ["mlx_lm/lora.py", "mlx_lm/tuner/datasets.py", "mlx_lm/tuner/utils.py"])
    found = sources.flags("mlx_lm/lora.py", "lora.py build_parser")
    lora = next(tree for path, tree in sources.trees.items() if path.name == "lora.py")
    for node in ast.walk(lora):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "CONFIG_DEFAULTS":
            for key, value in literal(node.value).items():
                found[key] = (value, "lora.py CONFIG_DEFAULTS")
    # What functions read of tables: config["x"], config.get("x", default), "x" in config.
    tables = {
        "linear_to_lora_layers": ("config", "lora_parameters"),
        "build_schedule": ("schedule_config", "lr_schedule"),
        "create_dataset": ("config", "hf_dataset"),
        "load_custom_hf_dataset": ("ds", "hf_dataset"),
        "create_hf_dataset": ("ds", "hf_dataset"),
    }
    for tree in sources.trees.values():
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef) or function.name not in tables:
                continue
            table, prefix = tables[function.name]

            def take(key, default=...):
                if isinstance(key, str):
                    found.setdefault(f"{prefix}.{key}", (default, f"{function.name}"))

            for node in ast.walk(function):
                of = lambda value: isinstance(value, ast.Name) and value.id == table
                if isinstance(node, ast.Subscript) and of(node.value) and isinstance(node.ctx, ast.Load):
                    take(literal(node.slice))
                elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "get" and of(node.func.value):
                    take(*[literal(argument) for argument in node.args])
                elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr" and of(node.args[0]):
                    take(*[literal(argument) for argument in node.args[1:]])
                elif isinstance(node, ast.Compare) and any(of(right) for right in node.comparators):
                    take(literal(node.left))
    found.pop("config")  # the flag of the file itself
    return found


def unsloth(folder: Path) -> dict:
    sources = Sources(
        folder,
        ["unsloth_cli/config.py", "unsloth/models/loader.py", "unsloth/models/llama.py", "unsloth/models/vision.py",
         "unsloth/trainer.py", f"unsloth-{UNSLOTH_SOURCE}/unsloth-cli.py"],
    )
    found = sources.flags("unsloth-cli.py", "unsloth-cli.py")
    for path, owner, function in [
        ("models/loader.py", "FastLanguageModel", "from_pretrained"),
        ("models/loader.py", "FastModel", "from_pretrained"),
        ("models/llama.py", "FastLlamaModel", "get_peft_model"),
        ("models/vision.py", "FastBaseModel", "get_peft_model"),
        ("unsloth/trainer.py", "UnslothTrainingArguments", "__init__"),
    ]:
        for key, value in sources.parameters(path, owner, function).items():
            found.setdefault(key, value)
    for section, owner in [("data", "DataConfig"), ("training", "TrainingConfig"), ("lora", "LoraConfig"), ("logging", "LoggingConfig")]:
        found.update(nested(section, sources.fields(owner)))
    return found


def axolotl(folder: Path) -> dict:
    sources = Sources(folder, ["axolotl/utils/schemas/*.py", "axolotl/integrations/*/args.py"])
    found = sources.fields("AxolotlInputConfig")
    for path, tree in sources.trees.items():
        if path.name == "args.py":
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and node.name.endswith("Args"):
                    for key, value in sources.fields(node.name).items():
                        found.setdefault(key, value)
    for prefix, owner in [
        ("datasets", "SFTDataset"), ("datasets", "DPODataset"), ("datasets", "KTODataset"), ("datasets", "StepwiseSupervisedDataset"),
        ("peft", "PeftConfig"), ("lr_groups", "LrGroup"), ("special_tokens", "SpecialTokensConfig"),
    ]:
        for key, value in nested(prefix, sources.fields(owner)).items():
            found.setdefault(key, value)
    return found


def llama_factory(folder: Path) -> dict:
    sources = Sources(folder, ["llamafactory/hparams/*.py", "transformers/training_args.py", "transformers/training_args_seq2seq.py"])
    found = {}
    # Its own `TrainingArguments` and transformers' have the same name.
    own = sources.classes.pop("TrainingArguments")
    assert any(item.name == "TrainingArguments" for item in ast.parse((folder / "llamafactory/hparams/training_args.py").read_text()).body
               if isinstance(item, ast.ClassDef))
    base = Sources(folder, ["transformers/training_args.py", "transformers/training_args_seq2seq.py"])
    found.update(base.fields("Seq2SeqTrainingArguments"))
    for item in own.bases:
        if isinstance(item, ast.Name) and item.id in sources.classes:
            found.update(sources.fields(item.id))
    sources.classes["TrainingArguments"] = own
    own.bases = []
    found.update(sources.fields("TrainingArguments"))
    for owner in ["ModelArguments", "DataArguments", "FinetuningArguments", "GeneratingArguments"]:
        found.update(sources.fields(owner))
    return found


def trl(folder: Path) -> dict:
    sources = Sources(
        folder,
        ["trl/trainer/*_config.py", "trl/scripts/utils.py", "trl/experimental/cpo/cpo_config.py", "trl/experimental/orpo/orpo_config.py",
         "transformers/training_args.py", "peft/tuners/lora/config.py", "peft/config.py"],
    )
    found = {}
    for owner in ["SFTConfig", "DPOConfig", "KTOConfig", "CPOConfig", "ORPOConfig", "ModelConfig", "ScriptArguments", "DatasetMixtureConfig",
                  "TrainingArguments", "LoraConfig"]:
        for key, value in sources.fields(owner).items():
            found.setdefault(key, value)
    found.update(nested("datasets", sources.fields("DatasetConfig")))
    return found


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unpack(folder)
        versions = PACKAGES | {"unsloth": f"{PACKAGES['unsloth']}, unsloth-cli.py of {UNSLOTH_SOURCE}"}
        for file, keys, packages in [
            ("mlx-lm", mlx_lm(folder), ["mlx-lm"]),
            ("unsloth", unsloth(folder), ["unsloth"]),
            ("axolotl", axolotl(folder), ["axolotl"]),
            ("llama-factory", llama_factory(folder), ["llamafactory", "transformers"]),
            ("trl", trl(folder), ["trl", "transformers", "peft"]),
        ]:
            lines = [f"# {', '.join(f'{package} {versions[package]}' for package in packages)}; written by tests/scripts/list_peer_keys.py"]
            for key, (default, where) in sorted(keys.items()):
                lines.append(f"{key}\t{'-' if default is ... else json.dumps(default)}\t{where}")
            (out / f"{file}.tsv").write_text("\n".join(lines) + "\n")
            print(f"{file}: {len(keys)} keys")


if __name__ == "__main__":
    main()
