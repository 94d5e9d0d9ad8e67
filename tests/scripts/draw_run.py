"""Runs the quickstart, and draws what it prints as a terminal: python3 tests/scripts/draw_run.py target/release/burnish docs/quickstart.svg"""

import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

COLUMNS, SIZE, LINE = 110, 13, 18
WIDTH = int(COLUMNS * SIZE * 0.602) + 40
# Colours by how a line begins.
COLOURS = [("$ ", "#7ee787"), ("> ", "#79c0ff"), ("  before:", "#ffa198"), ("  after:", "#7ee787"), ("held-out", "#ffffff")]


def wrapped(line):
    """A terminal breaks lines anywhere."""
    return [line[at : at + COLUMNS] for at in range(0, max(len(line), 1), COLUMNS)]


def drawn(lines):
    height = len(lines) * LINE + 60
    texts = []
    for row, line in enumerate(lines):
        colour = next((colour for start, colour in COLOURS if line.startswith(start)), "#c9d1d9")
        if line:
            top = 54 + row * LINE
            texts.append(f'<text x="20" y="{top}" fill="{colour}" xml:space="preserve">{escape(line)}</text>')
    dots = "".join(f'<circle cx="{20 + 18 * at}" cy="18" r="6" fill="{fill}"/>' for at, fill in enumerate(("#ff5f57", "#febc2e", "#28c840")))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'font-family="ui-monospace, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" font-size="{SIZE}">',
            f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#0d1117"/>',
            dots,
            *texts,
            "</svg>",
        ]
    )


def main(program, target):
    program = Path(program).resolve()
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            [program, "quickstart"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
        )
    lines = ["$ burnish quickstart", *run.stdout.rstrip().split("\n")]
    # The picture leaves out where files are written while the run goes on.
    kept = [line for line in lines if not line.startswith(("saved ", "writing all files"))]
    Path(target).write_text(drawn([part for line in kept for part in wrapped(line)]) + "\n")


main(*sys.argv[1:])
