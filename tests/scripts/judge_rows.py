"""Measures how fast rows are prepared on one core and on two, how fast a second start is, and what is resident with a file beyond memory.

    python tests/scripts/judge_rows.py target/release/burnish MODEL [--rows 100000] [--gb 5] [--work FOLDER]

MODEL has the tokenizer that is measured (smollm2.gguf of fetch_models.sh). The rows are conversations of two turns, 0.85 KB each. Times
are from the command to its line with the number of training examples, which follows preparing; a run of one core and a run of two cores
take turns, three times, and the ratio is that of the best. With two cores they must be at least 1.8 times as fast as with one, and a
second start may take 3 seconds. Other load of the machine hides the first. Then `train` and `data` read a file of --gb gigabytes (0 leaves
that out) whose rows have 5 KB each, with the tiny model of the quickstart; each may have 2 GiB resident. Needs only the standard library.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = ROOT / "recipes/assets/quickstart/model"
RATIO, SECOND_START, MOST = 1.8, 3.0, 2 << 30
WORD = "training examples"


def texts():
    """Sentences of the words of this book."""
    pages = " ".join(path.read_text() for path in sorted(ROOT.glob("docs/*.md")))
    words = sorted(set(re.findall(r"[A-Za-z]{2,}[.,]?", pages)))
    source = random.Random(5)
    return [" ".join(source.choices(words, k=90)) for _ in range(4000)]


def write(path, count=None, size=None, sentences_of_an_answer=1):
    """Rows, all of them different; returns how many there are."""
    sentences, source, written, rows = texts(), random.Random(9), 0, 0
    with open(path, "w") as file:
        while (count is None or rows < count) and (size is None or written < size):
            question, *answer = source.choices(sentences, k=1 + sentences_of_an_answer)
            answer = " ".join(one[:450] for one in answer)
            row = (f'{{"messages": [{{"role": "user", "content": "{rows}: {question[:300]}"}}, '
                   f'{{"role": "assistant", "content": "{answer}"}}]}}\n')
            written, rows = written + file.write(row), rows + 1
    return rows


def start(command, cache, threads=None, word=WORD, goes_on=False):
    """Seconds to the line with these words, processor seconds until the process ended, and its peak."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "HOME": str(cache)}
    environment |= {"RAYON_NUM_THREADS": str(threads)} if threads else {}
    begun = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    passed, said = None, []
    for line in process.stdout:
        said.append(line)
        if word in line and passed is None:
            passed = time.monotonic() - begun
            if not goes_on:
                process.terminate()
    _, status, usage = os.wait4(process.pid, 0)
    if passed is None or goes_on and status:
        sys.exit(f"{' '.join(map(str, command))}: {''.join(said)}")
    return passed, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << (0 if sys.platform == "darwin" else 10)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--gb", type=float, default=5)
    parser.add_argument("--work")
    arguments = parser.parse_args()
    failed = 0

    def check(holds, what):
        nonlocal failed
        failed += not holds
        print("ok:" if holds else "FAILED:", what, flush=True)

    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = Path(folder)
        names = iter(range(1000))
        fresh = lambda what: work / f"{what}-{next(names)}"

        def train(model, data, *more):
            return [arguments.program, "train", "--model", model, "--data", data, "--output-dir", fresh("run"), "--backend", "cpu",
                    "--batch-size", 1, "--grad-accumulation-steps", 1, "--iters", 1, "--max-seq-length", 512, *more]

        if arguments.rows:
            rows = work / "rows.jsonl"
            write(rows, count=arguments.rows)
            print(f"{arguments.rows} rows, {rows.stat().st_size / 1e6:.1f} MB; load {os.getloadavg()[0]:.1f}", flush=True)
            taken, processor = {1: [], 2: []}, {1: [], 2: []}
            for turn in range(3):
                for threads in (1, 2):
                    cache = fresh("cache")
                    seconds, of_processor, _ = start(train(arguments.model, rows), cache, threads)
                    taken[threads].append(seconds)
                    processor[threads].append(of_processor)
            seconds, _, _ = start(train(arguments.model, rows), cache)
            for threads in (1, 2):
                print(f"{threads} threads: {min(taken[threads]):.1f} s, of {', '.join(f'{one:.1f}' for one in taken[threads])}; "
                      f"{min(processor[threads]):.1f} s of processors", flush=True)
            ratio = min(taken[1]) / min(taken[2])
            check(ratio >= RATIO, f"two threads are {ratio:.2f} times as fast as one")
            check(seconds <= SECOND_START, f"the second start took {seconds:.2f} s")
        if arguments.gb:
            rows, cache = work / "large.jsonl", fresh("cache")
            count = write(rows, size=arguments.gb * 1e9, sentences_of_an_answer=10)
            print(f"{count} rows, {rows.stat().st_size / 1e9:.2f} GB", flush=True)
            for name, command, word in (
                    ("train", train(TINY, rows), WORD),
                    ("train again, of kept rows", train(TINY, rows), WORD),
                    ("data", [arguments.program, "data", rows, "--model", TINY, "--max-seq-length", 512, "--rows", 1], "rows")):
                seconds, processor, peak = start(command, cache, word=word, goes_on=True)
                check(peak <= MOST, f"{name}: {peak / 2**30:.2f} GiB resident; rows after {seconds:.0f} s, {processor:.0f} s of processors")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
