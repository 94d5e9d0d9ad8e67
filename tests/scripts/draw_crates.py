"""Draws the crates and their dependencies: python3 tests/scripts/draw_crates.py docs/crates.svg

The places are chosen by hand, `--test docs` compares crates and arrows with the workspace.
"""

import sys
from html import escape

# package: (name in the drawing, what it holds, left, top)
CRATES = {
    "burnish-tests": ("tests", "parity, backends, bad input, docs", 40, 20),
    "burnish-fuzz": ("tests/fuzz", "damaged files for every reader", 380, 20),
    "burnish-examples": ("examples", "small programs", 720, 20),
    "burnish-recipes": ("recipes", "training loop, program burnish", 250, 110),
    "burnish-bench": ("recipes/bench", "speed and memory", 40, 200),
    "burnish-backends": ("recipes/backends", "each backend, compiled once", 40, 290),
    "burnish-memory": ("recipes/memory", "what a step takes", 265, 290),
    "burnish-data": ("recipes/data", "rows to batches", 490, 290),
    "burnish-export": ("export", "GGUF, MLX, PEFT, HF", 720, 290),
    "burnish-engine": ("recipes/engine", "a model on a device, as traits", 265, 380),
    "burnish-lora": ("lora", "adapters, merging", 490, 470),
    "burnish-models": ("models", "families, checkpoints, tokenizer", 490, 560),
    "burnish-metal": ("backend-metal", "Metal and Vulkan, emulator", 40, 560),
    "burnish-kernels": ("kernels", "fused operations", 265, 650),
    "burnish-cubecl": ("kernels/cubecl", "cubecl, with cheaper launches", 265, 740),
}
# Each crate uses those below it; what follows from other arrows is left out.
ARROWS = [
    ("burnish-tests", "burnish-recipes"),
    ("burnish-fuzz", "burnish-recipes"),
    ("burnish-examples", "burnish-data"),
    ("burnish-examples", "burnish-export"),
    ("burnish-examples", "burnish-metal"),
    ("burnish-recipes", "burnish-bench"),
    ("burnish-recipes", "burnish-data"),
    ("burnish-recipes", "burnish-export"),
    ("burnish-bench", "burnish-backends"),
    ("burnish-bench", "burnish-memory"),
    ("burnish-backends", "burnish-engine"),
    ("burnish-backends", "burnish-metal"),
    ("burnish-memory", "burnish-engine"),
    ("burnish-data", "burnish-engine"),
    ("burnish-engine", "burnish-lora"),
    ("burnish-export", "burnish-lora"),
    ("burnish-lora", "burnish-models"),
    ("burnish-models", "burnish-kernels"),
    ("burnish-metal", "burnish-kernels"),
    ("burnish-kernels", "burnish-cubecl"),
]
# Those that would cross boxes lead along the margin.
AROUND = {("burnish-examples", "burnish-metal")}
WIDTH, HEIGHT = 200, 50
GENERIC = {"burnish-kernels", "burnish-models", "burnish-lora", "burnish-engine"}


def box(package):
    name, holds, left, top = CRATES[package]
    fill = "#e8f0fe" if package in GENERIC else "#f4f4f4"
    middle = left + WIDTH / 2
    return f"""<g data-crate="{package}">
<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{fill}" stroke="#57606a"/>
<text x="{middle}" y="{top + 21}" font-weight="600">{escape(name)}</text>
<text x="{middle}" y="{top + 39}" font-size="11" fill="#57606a">{escape(holds)}</text>
</g>"""


def arrow(user, used):
    left, top = CRATES[user][2:]
    to_left, to_top = CRATES[used][2:]
    if (user, used) in AROUND:
        curve = f"M{left + 20} {top} V8 H20 V{to_top + HEIGHT / 2:g} H{to_left - 3}"
        return f'<path data-user="{user}" data-used="{used}" d="{curve}" marker-end="url(#tip)"/>'
    # From the side that faces the other, so that lines do not cross boxes.
    shift = max(-70, min(70, (to_left - left) / 4))
    x1, y1 = left + WIDTH / 2 + shift, top + HEIGHT
    x2, y2 = to_left + WIDTH / 2 - shift, to_top - 3
    curve = f"M{x1:g} {y1:g} C{x1:g} {y1 + 28:g} {x2:g} {y2 - 28:g} {x2:g} {y2:g}"
    return f'<path data-user="{user}" data-used="{used}" d="{curve}" marker-end="url(#tip)"/>'


def main(target):
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 810" font-family="system-ui, sans-serif" font-size="14">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
        '<path d="M0 0 L8 4 L0 8 z" fill="#57606a"/></marker></defs>',
        '<rect width="960" height="810" fill="#ffffff"/>',
        '<g fill="none" stroke="#57606a" stroke-width="1.3">',
        *(arrow(*pair) for pair in ARROWS),
        "</g>",
        '<g text-anchor="middle" fill="#1f2328">',
        *(box(package) for package in CRATES),
        "</g>",
        '<rect x="720" y="646" width="16" height="16" rx="3" fill="#e8f0fe" stroke="#57606a"/>',
        '<text x="744" y="659" font-size="12" fill="#1f2328">generic over burn’s Backend</text>',
        '<text x="720" y="684" font-size="12" fill="#1f2328">An arrow leads to what a crate uses.</text>',
        "</svg>",
    ]
    with open(target, "w") as file:
        file.write("\n".join(lines) + "\n")


main(sys.argv[1])
