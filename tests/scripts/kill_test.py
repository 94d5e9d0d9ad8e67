"""Kills a training run by SIGKILL at random moments and checks that nothing is lost.

    python tests/scripts/kill_test.py target/release/burnish [kills]

An unbroken run comes first. Then runs of the same configuration are killed, checkpoint writes included, and resumed with
`--resume auto` until they end; losses by step and the bytes of the adapter must equal the unbroken run's. Standard library
only.
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[2] / "recipes/assets/quickstart"


def command(program, run, *more):
    return [program, "--quiet", "train", "--model", str(ASSETS / "model"), "--data", str(ASSETS / "data"), "--output-dir",
            str(run), "--iters", "60", "--batch-size", "4", "--rank", "8", "--dropout", "0.1", "--save-every", "2",
            "--steps-per-eval", "10", "--val-batches", "2", "--learning-rate", "1e-3", *more]


def outcome(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows], (run / "adapter/adapter_model.safetensors").read_bytes()


def main():
    program, kills = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100
    root = Path(tempfile.mkdtemp(prefix="burnish-kill-"))
    started = time.time()
    subprocess.run(command(program, root / "whole"), check=True, stdout=subprocess.DEVNULL)
    length = time.time() - started
    expected = outcome(root / "whole")
    rng = random.Random(1)
    killed = passed = failed = runs = 0
    while killed < kills:
        run = root / f"run-{runs}"
        runs += 1
        while True:
            process = subprocess.Popen(command(program, run, "--resume", "auto"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            try:
                # Most kills fall into the run, some into the start and the end of the program.
                _, errors = process.communicate(timeout=rng.uniform(0.02, length * 0.6))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
                continue
            if process.returncode != 0:
                print(f"run {runs}: did not resume: {errors.decode()}")
                failed += 1
            elif outcome(run) == expected:
                passed += 1
            else:
                print(f"run {runs}: ended otherwise than the unbroken run")
                failed += 1
            break
        shutil.rmtree(run, ignore_errors=True)
    shutil.rmtree(root, ignore_errors=True)
    print(f"{killed} kills in {runs} runs of {length:.1f} s, every one resumed until its end")
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
