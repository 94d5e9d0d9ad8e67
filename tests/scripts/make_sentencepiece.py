#!/usr/bin/env python3
"""Small SentencePiece models, and the ids that transformers' tokenizers give for texts that are hard to divide.

    pip install -r tests/scripts/requirements.txt
    python3 tests/scripts/make_sentencepiece.py tests/fixtures/sentencepiece
"""
import io
import json
import pathlib
import shutil
import sys
import tempfile

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import LlamaConverter, SpmConverter

SENTENCES = """The quick brown fox jumps over the lazy dog, and then it sleeps.
Fine-tuning changes a few weights of a model; the others stay as they are.
In 1984 there were 365 days, 12 months and 52 weeks: 8760 hours.
Der schnelle Fuchs springt über den faulen Hund. Größe, Straße, Äpfel.
Le cœur a ses raisons que la raison ne connaît point; déjà vu, naïve.
日本語の文章を分割する。東京と京都。
def tokenize(text):  return [piece for piece in text.split(' ') if piece]
She said: "I don't know — maybe it's 3.14 or 2,718?" (He didn't answer.)
    indented lines    have    many spaces\tand tabs
https://example.org/path?query=value&other=1#fragment
""".splitlines()

TEXTS = [
    "Hello world", "", " ", "  ", "   leading", "trailing   ", "two  spaces", "a    b\t\tc", "line\nbreak\r\n\n\nend",
    "The quick brown fox", "über Größe Straße", "日本語の文章", "🦀 crab 👩‍👩‍👧 family", "\u2581lower one\u2581eighth",
    "e\u0301 é ﬁ ½ Ａ", "\u200b\ufeff\u00a0nbsp", "1234567890 3.14", "<s>hi</s>", "<s> hi </s> there", "x<|user|>y <|user|> z",
    "<|user|>", "[INST] do it [/INST]", "<unk> unknown", "<0x41> byte", "\x00\x01\x7f", "don't DON'T", "\t", "\n", "a\u0000b",
    "<|end|>  after", "  <|end|>", "ab" * 40, "עברית العربية हिन्दी", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "<start_of_turn>user\nhi<end_of_turn>\n",
    "Ω≈ç√∫˜µ≤≥÷", "\u3000wide\u3000space", "...!!!???", " \n \n ", "<pad><bos>text<eos>",
]

# Code points and what replaces them: a part of NFKC, since the whole of it has 250 KB.
RULES = [("FF21", "41"), ("FB01", "66 69"), ("BD", "31 2044 32"), ("65 301", "E9"), ("3000", "20"), ("A0", "20"), ("9", "20"),
         ("200B", ""), ("FEFF", ""), ("54 68 65", "74 68 65"), ("1D518", "55")]

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
GEMMA = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
LLAMA = {"tokenizer_class": "LlamaTokenizer", **SPECIAL}
END = {"content": "<|end|>", "special": True, "lstrip": False, "rstrip": True, "normalized": False, "single_word": False}


def train(**settings) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 3), model_writer=model, num_threads=1, minloglevel=2, hard_vocab_limit=False,
        **settings)
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    # The path of the rules.
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    return proto.SerializeToString(deterministic=True)


class Slow:
    """What the converters ask of a slow tokenizer."""

    def __init__(self, path: pathlib.Path, **settings) -> None:
        self.vocab_file = str(path)
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=self.vocab_file)
        self.__dict__ |= settings

    def convert_ids_to_tokens(self, id: int) -> str:
        return self.pieces.id_to_piece(id)


def main(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    bpe = dict(model_type="bpe", byte_fallback=True, split_digits=True, normalization_rule_name="identity",
               remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, character_coverage=0.98)
    with tempfile.TemporaryDirectory() as temporary:
        rules = pathlib.Path(temporary) / "rules.tsv"
        rules.write_text("".join(f"{source}\t{target}\n" for source, target in RULES))
        unigram = train(model_type="unigram", vocab_size=160, normalization_rule_tsv=str(rules), character_coverage=0.98,
                        user_defined_symbols=["<|user|>"])
    models = {
        "llama": train(vocab_size=420, user_defined_symbols=["<|user|>", "[INST]"], **bpe),
        "gemma": train(vocab_size=420, add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3,
                       pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>",
                       user_defined_symbols=["<start_of_turn>", "<end_of_turn>", "\n\n", "\u2581\u2581", "\t"], **bpe),
        "unigram": unigram,
        "unigram_bytes": train(model_type="unigram", vocab_size=400, byte_fallback=True, normalization_rule_name="identity",
                               remove_extra_whitespaces=False, character_coverage=0.98),
    }
    for name, model in models.items():
        (folder / f"{name}.model").write_bytes(model)
    size = sentencepiece.SentencePieceProcessor(model_proto=models["llama"]).vocab_size()
    cases = [
        ("llama", LLAMA | {"add_bos_token": True}, {}),
        ("llama", LLAMA | {"legacy": True, "add_bos_token": True, "add_eos_token": True}, {}),
        ("llama", LLAMA | {"add_prefix_space": False}, {}),
        ("llama", LLAMA | {"added_tokens_decoder": {"2": END | {"content": "</s>"}, str(size): END}}, {}),
        ("llama", LLAMA, {"<|end|>": size}),
        ("gemma", GEMMA | {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True}, {}),
    ]
    written = []
    for model, config, added in cases:
        with tempfile.TemporaryDirectory() as temporary:
            path = pathlib.Path(temporary)
            shutil.copy(folder / f"{model}.model", path / "tokenizer.model")
            (path / "tokenizer_config.json").write_text(json.dumps(config))
            (path / "config.json").write_text(json.dumps({"model_type": model}))
            if added:
                (path / "added_tokens.json").write_text(json.dumps(added))
            tokenizer = AutoTokenizer.from_pretrained(path)
            assert type(tokenizer).__name__ == config["tokenizer_class"]
            ids = [tokenizer(text)["input_ids"] for text in TEXTS]
            bare = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
            decoded = [tokenizer.backend_tokenizer.decode(row, skip_special_tokens=False) for row in bare]
        written.append({"model": model, "config": config, "added": added, "ids": ids, "decoded": decoded})
    # Classes that transformers 5 has no tokenizer of its own for are converted from the slow tokenizer.
    for model, converter, config, settings in [
        ("unigram", SpmConverter, SPECIAL, {}),
        ("unigram", SpmConverter, SPECIAL | {"add_prefix_space": False}, {"add_prefix_space": False}),
        ("unigram_bytes", LlamaConverter, LLAMA, {"legacy": False}),
    ]:
        tokenizer = converter(Slow(folder / f"{model}.model", **settings)).converted()
        # As the fast tokenizer of the class adds them.
        tokenizer.add_special_tokens(list(SPECIAL.values()))
        ids = [tokenizer.encode(text).ids for text in TEXTS]
        decoded = [tokenizer.decode(row, skip_special_tokens=False) for row in ids]
        written.append({"model": model, "config": config, "added": {}, "ids": ids, "decoded": decoded})
    text = json.dumps({"texts": TEXTS, "cases": written}, ensure_ascii=True, separators=(",", ":"))
    (folder / "ids.json").write_text(text + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
