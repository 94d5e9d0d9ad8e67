"""Opens Burnish's GGUF files of each family with llama.cpp, and compares ids, logits and greedy tokens.

    python tests/scripts/judge_gguf.py target/release/burnish [FAMILY…]

Makes a random checkpoint of each family, with a tokenizer of the family's kind and an adapter, which Burnish merges into one GGUF in
f32. Then, for a list of difficult strings, llama.cpp's ids must equal transformers', its logits those of transformers + peft, its loss
that of `burnish eval` on the file, and its greedy tokens those of `burnish generate` on the file, and on the folder with the adapter,
as long as the two best logits differ enough; and a chat must have the same ids with the file's template.
Versions: requirements.txt.
"""

import json
import subprocess
import sys
import tempfile
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import torch
from llama_cpp import Llama
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (AutoModelForCausalLM, Exaone4Config,
                          Gemma2Config, Gemma3TextConfig, GemmaConfig, GptOssConfig, GraniteConfig,
                          GraniteMoeHybridConfig, LlamaConfig,
                          Ministral3Config, MistralConfig, Olmo2Config, Olmo3Config, Phi3Config, PreTrainedTokenizerFast, Qwen2Config,
                          Qwen3Config, Qwen3MoeConfig, SeedOssConfig, SmolLM3Config)

from tokenizer_ids import WRITTEN

LENGTH = 40
# Tolerance of logits, relative tolerance of the loss, and required margin of the best logit. llama.cpp has a table of GELU in f16.
TOLERANCES, GELU_TOLERANCES = (3e-4, 2e-5, 1e-3), (5e-3, 2e-4, 5e-3)
PROMPTS = ["The harbour lies", "What is 2 + 2?", "Book a table for 4 at Luigi's, Friday 7 pm.\nThen tell Zoë: 你好!",
           "A long sentence that leaves the window of a sliding layer well behind it, 1234567890 times over, and goes on."]
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SUFFIX, PREFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?", r"[^\r\n\p{L}\p{N}]?"
SPACE = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O = f"{PREFIX}{UPPER}*{LOWER}+{SUFFIX}|{PREFIX}{UPPER}+{LOWER}*{SUFFIX}|" + r"\p{N}{1,3}|" + SPACE
TEKKEN = f"{PREFIX}{UPPER}*{LOWER}+|{PREFIX}{UPPER}+{LOWER}*|" + r"\p{N}|" + SPACE
# The file has the characters, not their escapes.
SEED = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
# Of these, llama.cpp has patterns that know upper case in ASCII only, and no combining marks.
BY_CASE = ("gpt-oss", "ministral3", "phi4-mini")
TURNS = ("{% for m in messages %}{{ START + (MODEL if m.role == 'assistant' else m.role) + '\\n' + m.content + END + '\\n' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ START + MODEL + '\\n' }}{% endif %}")
CPU = ["--backend", "cpu", "--dtype", "f32"]
BASE = dict(hidden_size=128, intermediate_size=256, max_position_embeddings=256, attn_implementation="eager", pad_token_id=0)


def template(start, model, end, before=""):
    return before + TURNS.replace("START", repr(start)).replace("MODEL", repr(model)).replace("END", repr(end))


def corpus():
    root = Path(__file__).parents[2]
    return WRITTEN * 3 + PROMPTS * 3 + (root / "recipes/assets/quickstart/data/train.jsonl").read_text().splitlines()[:200]


def byte_level(pattern, special, ignore_merges=False):
    """Like Qwen2 and Llama 3: byte-level, split by a pattern."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def sentence_piece(special):
    """Like Gemma: spaces as ▁, byte fallback, and, as in SentencePiece, any two pieces whose join is a piece are merged."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trained.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=900, show_progress=False))
    pieces = [piece for piece, _ in sorted(trained.get_vocab().items(), key=lambda item: item[1])]
    names = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocabulary = {piece: index for index, piece in enumerate(names)}
    splits = [(piece[:at], piece[at:]) for piece in pieces for at in range(1, len(piece))]
    merges = [split for split in splits if split[0] in vocabulary and split[1] in vocabulary]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer


def qwen(kind, **more):
    tokenizer = byte_level(QWEN2, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = template("<|im_start|>", "assistant", "<|im_end|>")
    return fast, kind(**BASE, vocab_size=1024, num_hidden_layers=3, bos_token_id=0, eos_token_id=2, **more)


def gemma(kind, **more):
    tokenizer = sentence_piece(["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
                                   unk_token="<unk>")
    fast.chat_template = template("<start_of_turn>", "model", "<end_of_turn>", "{{ bos_token }}")
    return fast, kind(**BASE, vocab_size=1280, num_hidden_layers=7, head_dim=32, bos_token_id=2, eos_token_id=1, **more)


def llama(kind, pattern=LLAMA3, ignore_merges=False, **more):
    tokenizer = byte_level(pattern, ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], ignore_merges)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    fast.chat_template = template("<|begin_of_text|>", "assistant", "<|eot_id|>")
    return fast, kind(**{**BASE, "num_hidden_layers": 3, **more}, vocab_size=1024, bos_token_id=0, eos_token_id=2)


ROPE = dict(rope_type="default", rope_theta=1e6)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2)
SLIDING = dict(**HEADS, query_pre_attn_scalar=32, sliding_window=16)
LLAMA3_ROPE = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=64)
FAMILIES = {
    "llama": lambda: llama(LlamaConfig, ignore_merges=True, **HEADS, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE),
    "mistral": lambda: llama(MistralConfig, **HEADS, head_dim=48, sliding_window=None),
    "olmo2": lambda: llama(Olmo2Config, **HEADS, tie_word_embeddings=False, rope_parameters=ROPE),
    "olmo3": lambda: llama(Olmo3Config, **HEADS, num_hidden_layers=5, sliding_window=16, rope_parameters=dict(
        sliding_attention=ROPE, full_attention=dict(rope_type="yarn", rope_theta=1e6, factor=4.0,
                                                    original_max_position_embeddings=64))),
    "granite": lambda: llama(GraniteConfig, **HEADS, tie_word_embeddings=True, rope_parameters=ROPE, attention_multiplier=0.1,
                             embedding_multiplier=12.0, residual_multiplier=0.5, logits_scaling=2.0),
    "granite4": lambda: llama(GraniteMoeHybridConfig, **HEADS, tie_word_embeddings=True, rope_parameters=ROPE,
                              attention_multiplier=0.1, embedding_multiplier=12.0, residual_multiplier=0.5, logits_scaling=2.0,
                              num_local_experts=0, num_experts_per_tok=0, shared_intermediate_size=256, mamba_n_heads=4,
                              position_embedding_type="rope", layer_types=["attention"] * 3),
    "smollm3": lambda: llama(SmolLM3Config, **HEADS, num_hidden_layers=5, tie_word_embeddings=True, rope_parameters=ROPE),
    # llama.cpp chooses the divisors by the length of its context, here 256.
    "phi3": lambda: llama(Phi3Config, **HEADS, original_max_position_embeddings=256, rope_parameters=dict(
        rope_type="longrope", rope_theta=1e4, partial_rotary_factor=0.75, attention_factor=1.2,
        short_factor=[1 + 0.1 * index for index in range(12)], long_factor=[9.0] * 12)),
    "phi4-mini": lambda: llama(Phi3Config, GPT4O, **HEADS, original_max_position_embeddings=256, tie_word_embeddings=True, rope_parameters=dict(
        rope_type="longrope", rope_theta=1e4, partial_rotary_factor=0.75, short_factor=[1.0] * 12, long_factor=[9.0] * 12)),
    "ministral3": lambda: llama(Ministral3Config, TEKKEN, True, **HEADS, head_dim=48, tie_word_embeddings=True, rope_parameters=dict(
        rope_type="yarn", rope_theta=1e6, factor=16.0, original_max_position_embeddings=16, beta_fast=32.0, beta_slow=1.0,
        mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1)),
    "qwen2": lambda: qwen(Qwen2Config, **HEADS, tie_word_embeddings=True, rope_parameters=ROPE),
    "qwen3": lambda: qwen(Qwen3Config, **HEADS, head_dim=48, tie_word_embeddings=False, rope_parameters=ROPE),
    "qwen3moe": lambda: qwen(Qwen3MoeConfig, **HEADS, head_dim=48, tie_word_embeddings=False, rope_parameters=ROPE, num_experts=8,
                             num_experts_per_tok=3, moe_intermediate_size=64, norm_topk_prob=True),
    # llama.cpp rounds the bounds of YaRN.
    "gpt-oss": lambda: llama(GptOssConfig, GPT4O, **HEADS, head_dim=48, num_hidden_layers=4, num_local_experts=8, num_experts_per_tok=3,
                             sliding_window=16, rope_parameters=dict(
                                 rope_type="yarn", rope_theta=1e6, factor=4.0, beta_fast=32.0, beta_slow=1.0, truncate=True,
                                 original_max_position_embeddings=64)),
    "seed-oss": lambda: llama(SeedOssConfig, SEED, **HEADS, head_dim=48, rope_parameters=ROPE),
    # llama.cpp has windows only in 64 layers.
    "exaone4": lambda: llama(Exaone4Config, **HEADS, num_hidden_layers=64, sliding_window=16, rope_parameters=LLAMA3_ROPE),
    "exaone4-full": lambda: llama(Exaone4Config, **HEADS, sliding_window=None, layer_types=["full_attention"] * 3,
                                  tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE),
    "gemma": lambda: gemma(GemmaConfig, num_attention_heads=4, num_key_value_heads=1),
    "gemma2": lambda: gemma(Gemma2Config, **SLIDING, attn_logit_softcapping=5.0, final_logit_softcapping=8.0),
    "gemma3": lambda: gemma(Gemma3TextConfig, **SLIDING),
    # As in the sizes from 4B: rotary scaling only in the full layers.
    "gemma3-scaled": lambda: gemma(Gemma3TextConfig, **SLIDING, rope_parameters=dict(
        full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
        sliding_attention=dict(rope_type="default", rope_theta=1e4))),
}


def make(name, folder):
    """The checkpoint, its adapter, and both as one model of transformers and peft."""
    # The same whichever families are added.
    torch.manual_seed(zlib.crc32(name.encode()) + 1)
    tokenizer, config = FAMILIES[name]()
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            one, embedding = (0.0, 0.07) if name.startswith("gemma") else (1.0, 0.12)
            parameter.copy_(one + 0.2 * noise if "norm" in key else (embedding if "embed" in key else 0.12) * noise)
    model.save_pretrained(folder / "base")
    (folder / "base/generation_config.json").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder / "base")
    # By all-linear, PEFT means routers and experts of Qwen3-MoE too, but not those of gpt-oss.
    experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.router.weight"] if name == "gpt-oss" else None
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", target_parameters=experts,
                                            task_type="CAUSAL_LM"))
    with torch.no_grad():
        for key, parameter in peft.named_parameters():
            if "lora_B" in key:
                parameter.normal_(0, 0.05)
    peft.save_pretrained(folder / "adapter")
    return tokenizer, peft.eval()


def burnish(program, *arguments):
    done = subprocess.run([program, "--json", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"burnish {' '.join(map(str, arguments))}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None


class Judge:
    def __init__(self):
        self.passed = self.failed = 0

    def __call__(self, name, ok, detail):
        self.passed, self.failed = self.passed + bool(ok), self.failed + (not ok)
        print(f"{'ok  ' if ok else 'FAIL'} {name}: {detail}", flush=True)


def ids_of(file, tokenizer, add_bos, text):
    own = file.tokenize(text.encode(), add_bos=add_bos, special=True)
    bos = [tokenizer.bos_token_id] if add_bos else []
    return own, bos + tokenizer(text, add_special_tokens=False).input_ids


def is_of_other_case(character):
    """A combining mark, or an upper-case letter that is not of ASCII."""
    return unicodedata.category(character)[0] == "M" or (not character.isascii() and unicodedata.category(character) in ("Lu", "Lt"))


def logits(file, ids):
    file.reset()
    file.eval(ids)
    return np.array(file.scores[:len(ids)])


def greedy(file, ids, margin):
    """llama.cpp's tokens, and the index of the first whose logit was the best by less than the margin."""
    file.reset()
    file.eval(ids)
    tokens, clear = [], None
    for index in range(LENGTH):
        row = file.scores[file.n_tokens - 1]
        second, first = np.sort(row)[-2:]
        if clear is None and first - second < margin:
            clear = index
        tokens.append(int(row.argmax()))
        file.eval(tokens[-1:])
    return tokens, LENGTH if clear is None else clear


def judge_family(judge, program, name, folder):
    tokenizer, model = make(name, folder)
    of_logits, of_loss, margin = GELU_TOLERANCES if name.startswith("gemma") else TOLERANCES
    path, base, adapter = folder / "model.gguf", folder / "base", folder / "adapter"
    burnish(program, "export", "--model", base, "--adapter", adapter, "--format", "gguf", "--quant", "f32", "--output", path)
    # f32 keys and values, because llama.cpp rounds them to f16 by default.
    file = Llama(str(path), n_ctx=256, n_threads=1, n_threads_batch=1, logits_all=True, type_k=0, type_v=0, verbose=False)
    add_bos = file.metadata.get("tokenizer.ggml.add_bos_token") == "true"
    comparable = [text for text in WRITTEN if name not in BY_CASE or not any(map(is_of_other_case, text))]
    wrong = [text for text in comparable if len(set(map(tuple, ids_of(file, tokenizer, add_bos, text)))) > 1]
    judge(f"{name} ids", not wrong, f"{len(comparable) - len(wrong)} of {len(comparable)} strings; not {wrong[:5]}")

    def loss_of(what, ids, row, *more):
        (folder / "row.jsonl").write_text(json.dumps(row) + "\n")
        said = burnish(program, "eval", "--model", path, "--data", folder / "row.jsonl", *CPU, *more)
        loss = -float(torch.log_softmax(torch.tensor(logits(file, ids)), -1)[range(len(ids) - 1), ids[1:]].mean())
        ok = said["tokens"] == len(ids) - 1 and abs(said["loss"] / loss - 1) < of_loss
        judge(f"{name} {what}", ok, f"{said['loss']:.6f} over {said['tokens']} tokens, llama.cpp {loss:.6f} over {len(ids) - 1}")

    def tokens_of(what, ids, *arguments):
        tokens, clear = greedy(file, ids, margin)
        for source in [["--model", path], ["--model", base, "--adapter", adapter]]:
            made = burnish(program, "generate", *source, "--temperature", "0", "--max-tokens", LENGTH, *CPU, *arguments)["tokens"]
            # Burnish stops at an end token, llama.cpp continues here.
            count = min(clear, len(made))
            judge(f"{name} {what}, {'GGUF' if len(source) == 2 else 'folder and adapter'}", made[:count] == tokens[:count] and count > 0,
                  f"{count} of {LENGTH} clear-cut, {len(set(tokens))} different")

    for prompt in PROMPTS:
        ids, expected = ids_of(file, tokenizer, add_bos, prompt)
        judge(f"{name} prompt ids", ids == expected, f"{len(ids)} ids of {prompt!r}")
        with torch.no_grad():
            theirs = model(torch.tensor([ids])).logits[0].numpy()
        distance = float(np.abs(logits(file, ids) - theirs).max())
        judge(f"{name} logits", distance < of_logits, f"{distance:.1e} from transformers + peft, of {np.abs(theirs).max():.1f} at most")
        loss_of("loss", [*ids, tokenizer.eos_token_id], {"text": prompt})
        tokens_of("tokens", ids, "--raw", "--prompt", prompt)
    turns = [{"role": "user", "content": PROMPTS[0]}, {"role": "assistant", "content": PROMPTS[1]}]
    for messages, asks in [(turns, False), (turns[:1], True)]:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=asks, tokenize=False)
        ids, expected = ids_of(file, tokenizer, False, text)
        judge(f"{name} chat ids", ids == expected, f"{len(ids)} ids of {text!r}")
        if asks:
            tokens_of("chat tokens", ids, "--prompt", PROMPTS[0])
        else:
            loss_of("chat loss", ids, {"messages": messages}, "--no-mask-prompt")


def main():
    judge = Judge()
    for name in sys.argv[2:] or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            judge_family(judge, sys.argv[1], name, Path(folder))
    print(f"{judge.passed} passed, {judge.failed} failed")
    sys.exit(judge.failed > 0)


if __name__ == "__main__":
    main()
