"""Kills runs and exports with SIGKILL at random moments, truncates their files, starts two runs in one folder, and checks that nothing is lost.

    python tests/scripts/kill_test.py target/release/burnish [kills]

First it trains an uninterrupted run. Then it kills runs of the same configuration, also while they write checkpoints, and resumes them
with `--resume auto` until they finish. The losses of all steps and the bytes of the adapter must equal those of the uninterrupted run.
Needs only the standard library.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[2] / "recipes/assets/quickstart"
RESULTS = {"passed": 0, "failed": 0}


def check(is_right, what):
    RESULTS["passed" if is_right else "failed"] += 1
    if not is_right:
        print(f"failed: {what}")


def command(program, run, *more):
    return [program, "--quiet", "train", "--model", str(ASSETS / "model"), "--data", str(ASSETS / "data"), "--output-dir",
            str(run), "--iters", "60", "--batch-size", "4", "--rank", "8", "--dropout", "0.1", "--save-every", "2",
            "--steps-per-eval", "10", "--val-batches", "2", "--learning-rate", "1e-3", *more]


def outcome(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows], (run / "adapter/adapter_model.safetensors").read_bytes()


def killed_after(arguments, seconds):
    """Whether the process was killed, else its exit code and what it said on stderr."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, errors = process.communicate(timeout=seconds)
        return False, process.returncode, errors.decode()
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True, None, ""


def killed_runs(program, root, expected, length, kills, rng):
    killed = runs = 0
    while killed < kills:
        run = root / f"run-{runs}"
        runs += 1
        while True:
            # Most kills fall into the run, some into the start and the end of the program.
            was_killed, code, errors = killed_after(command(program, run, "--resume", "auto"), rng.uniform(0.02, length * 0.6))
            if not was_killed:
                break
            killed += 1
        check(code == 0 and outcome(run) == expected, f"run {runs} did not end like the uninterrupted one: {errors}")
        left = [path.name for path in run.iterdir() if path.name.startswith(".") and path.name != ".lock"]
        check(not left, f"run {runs} left {left}")
        shutil.rmtree(run, ignore_errors=True)
    print(f"{killed} kills in {runs} runs of {length:.1f} s, each resumed until it finished")


def cut_files(program, root, expected):
    """Truncates each file of a run in turn: the run resumes from the last intact checkpoint, and ends the same."""
    whole = root / "cut"
    subprocess.run(command(program, whole, "--save-total-limit", "3"), check=True, stdout=subprocess.DEVNULL)
    newest = max(whole.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    results = [path.relative_to(whole) for path in sorted((whole / "adapter").iterdir())]
    victims = [path.relative_to(whole) for path in sorted(newest.iterdir())] + [Path("metrics.jsonl"), Path("config.toml")] + results
    for victim in victims:
        run = root / "victim"
        shutil.copytree(whole, run)
        if victim not in results:
            shutil.rmtree(run / "adapter")
        path = run / victim
        # As after a crash: half of the file, and half of a file that was being written. Metrics are synced before each checkpoint, so a
        # truncated line belongs to a step after the last checkpoint.
        size = path.stat().st_size
        if victim.name == "metrics.jsonl":
            shutil.rmtree(run / newest.name)
            size = 2 * (size - 20)
        path.write_bytes(path.read_bytes()[: size // 2])
        (run / ".config.toml.new").write_text("half")
        result = subprocess.run(command(program, run, "--resume", "auto", "--save-total-limit", "3"), capture_output=True, text=True)
        check(result.returncode == 0 and outcome(run) == expected, f"cut {victim}: {result.stderr}")
        shutil.rmtree(run)
    print(f"{len(victims)} files truncated, each run resumed from an intact checkpoint")


def contending_runs(program, root, expected, rounds):
    for index in range(rounds):
        run = root / "contended"
        both = [subprocess.Popen(command(program, run), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        results = [(process.communicate()[1], process.returncode) for process in both]
        codes = sorted(code for _, code in results)
        refused = [errors for errors, code in results if code == 1]
        said = bool(refused) and ("in use by process" in refused[0] or "already has a run" in refused[0])
        check(codes == [0, 1] and said and outcome(run) == expected, f"contention {index}: {results}")
        shutil.rmtree(run)
    print(f"{rounds} pairs of runs in one folder: one went on, the other was refused")


def killed_exports(program, root, adapter, kills, rng):
    formats = {"gguf": ["--format", "gguf", "--quant", "f32"], "hf": ["--format", "hf"], "peft": ["--format", "peft"]}
    killed = 0
    for name, flags in formats.items():
        place = root / f"export-{name}"
        place.mkdir()
        target = place / "out"
        base = [program, "--quiet", "export", "--model", str(ASSETS / "model"), "--adapter", str(adapter), "--output",
                str(target), "--overwrite", *flags]
        started = time.time()
        subprocess.run(base, check=True, stdout=subprocess.DEVNULL)
        length = time.time() - started
        read = lambda: {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}
        expected = read()
        for _ in range(kills):
            was_killed, code, errors = killed_after(base, rng.uniform(0.0, length))
            killed += was_killed
            check(was_killed or code == 0, f"export {name}: {errors}")
            found = {path: content for path, content in read().items() if path == "out" or path.startswith("out/")}
            check(found == expected, f"export {name}: killed, it left another target than a whole one")
        subprocess.run(base, check=True, stdout=subprocess.DEVNULL)
        check(read() == expected, f"export {name}: {sorted(set(read()) - set(expected))} were left behind")
        # Ctrl-C leaves nothing, whenever it comes.
        for _ in range(kills):
            process = subprocess.Popen(base, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(rng.uniform(0.0, length))
            process.send_signal(signal.SIGINT)
            process.wait()
            check(read() == expected, f"export {name}: interrupted, it left {sorted(set(read()) - set(expected))}")
    print(f"{killed} kills in exports, each left a whole target")


def main():
    program, kills = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100
    root = Path(tempfile.mkdtemp(prefix="burnish-kill-"))
    rng = random.Random(1)
    started = time.time()
    subprocess.run(command(program, root / "whole"), check=True, stdout=subprocess.DEVNULL)
    length = time.time() - started
    expected = outcome(root / "whole")
    killed_runs(program, root, expected, length, kills, rng)
    cut_files(program, root, expected)
    contending_runs(program, root, expected, 5)
    killed_exports(program, root, root / "whole/adapter", max(kills // 5, 5), rng)
    shutil.rmtree(root, ignore_errors=True)
    print(f"{RESULTS['passed']} passed, {RESULTS['failed']} failed")
    sys.exit(RESULTS["failed"] > 0)


if __name__ == "__main__":
    main()
