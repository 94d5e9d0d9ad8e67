"""What llama.cpp's tokenizers make of awkward strings.

    python tests/scripts/tokenizer_ids.py MODELS > tests/fixtures/tokenizer.json

MODELS is the folder of fetch_models.sh. Versions: requirements.txt.
"""

import json
import random
import sys
from pathlib import Path

from llama_cpp import Llama

WRITTEN = [
    "Hello, world!", " leading space", "trailing space ", "  two  spaces  ", "\n", "\n\n", "\n\n\n", "\t", "\t\tindent", "a\tb",
    " \n \n ", "line one\nline two\r\nline three\r", "0", "42", "1234567890", "3.14159", "1,000,000", "0x1F", "1e-5", "١٢٣", "½ ¾",
    "2024-02-29T12:34:56Z", "I'm you're he'll we've they'd it's", "I'M YOU'RE HE'LL", "don't can't won't", "naïve café résumé",
    "Ünïcödé", "ẞ ß", "ﬁ ligature", "e\u0301 combining", "Z\u0351\u036b\u0343a\u0321lgo", "😀", "😀😃😄", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇨🇭🇯🇵", "👍🏽",
    "你好，世界", "日本語のテキスト", "ひらがな カタカナ", "한국어 문장입니다", "Привет, мир", "Γειά σου Κόσμε", "مرحبا بالعالم", "שלום עולם",
    "नमस्ते दुनिया", "สวัสดีชาวโลก", "ไทยไม่มีช่องว่าง", "Tiếng Việt", "<|im_start|>user\nhi<|im_end|>\n", "<|im_end|><|im_end|>",
    "<|endoftext|>", "text<|im_start|>text", "<start_of_turn>user\nhi<end_of_turn>\n", "<bos><eos>", "<s></s>", "<unk>", "< |im_end| >",
    "def f(x):\n    return x ** 2  # square\n", "for (int i = 0; i < n; ++i) { a[i] += b[i]; }", "fn main() -> Result<(), Box<dyn Error>> {}",
    "SELECT * FROM t WHERE a >= 10 AND b != 'x';", "<html><body class=\"a\">&nbsp;</body></html>", "{\"key\": [1, 2.5, null, true]}",
    "https://example.com/a?b=c&d=%20e#f", "user@example.org", "C:\\Users\\name\\file.txt", "/usr/local/bin", "$HOME ${VAR} `cmd`",
    "!!!???...", "—–-‐", "“quoted” ‘single’ «guillemets»", "#hashtag @mention", "a+b=c", "~`!@#$%^&*()_+-=[]{}|;':\",./<>?", "(((nested)))",
    "\u200b", "zero\u200bwidth", "nbsp\u00a0here", "\u3000ideographic", "\ufeffbom", "a\u00adb soft hyphen", "\u202eright to left",
    "supercalifragilisticexpialidocious", "Donaudampfschifffahrtsgesellschaft", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "ABABABABABABAB",
    "CamelCaseIdentifier snake_case_identifier kebab-case", "ALLCAPS lowercase MiXeD", "x" * 70, " " * 17, "\n" * 9, "ab " * 20,
    "\x01\x02\x1f", "\x7f", "tab\tnew\nline", "  \t  \n", "…", "№ ™ © ®", "∀x∈ℝ: x² ≥ 0", "α β γ δ", "→ ⇒ ∞ ≠ ≤", "①②③", "Ⅳ ⅷ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "ｆｕｌｌｗｉｄｔｈ", "ａ１", "don’t", "it’s", "l'été", "O'Neill", "rock'n'roll", "'s 't 're", " 's", "word's", "10's", "3rd 21st",
    "1st.2nd,3rd", "12:34", "v1.2.3-beta+4", "50%", "$19.99", "€5", "¥100", "£3", "a/b/c", "1/2", "A.B.C.", "e.g. i.e. etc.", "Mr. Smith",
]


def strings():
    """The written ones, and mixtures of their parts."""
    rng = random.Random(3)
    mixed = ["".join(rng.choice(WRITTEN)[:rng.randint(1, 12)] + rng.choice(["", " ", "  ", "\n"]) for _ in range(rng.randint(2, 5)))
             for _ in range(100)]
    return WRITTEN + mixed


def main():
    models = Path(sys.argv[1])
    result = {"strings": strings()}
    for name in ("smollm2", "gemma3"):
        llama = Llama(str(models / f"{name}.gguf"), vocab_only=True, verbose=False)
        result[name] = [llama.tokenize(text.encode(), add_bos=False, special=True) for text in result["strings"]]
    json.dump(result, sys.stdout, ensure_ascii=True, separators=(",", ":"))


if __name__ == "__main__":
    main()
