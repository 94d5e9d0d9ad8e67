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
        said = bool(refused) and ("is in use by" in refused[0] or "already has a run" in refused[0])
        check(codes == [0, 1] and said and outcome(run) == expected, f"contention {index}: {results}")
        shutil.rmtree(run)
    print(f"{rounds} pairs of runs in one folder: one went on, the other was refused")


# How each target is written: as one file, a folder, or parts of which the first is the one to open.
FORMATS = {
    "gguf": ("file", ["--format", "gguf", "--quant", "f32"]),
    "gguf-parts": ("parts", ["--format", "gguf", "--quant", "f32", "--max-shard-size", "100KB"]),
    "gguf-lora": ("file", ["--format", "gguf-lora"]),
    "hf": ("folder", ["--format", "hf"]),
    "hf-shards": ("folder", ["--format", "hf", "--max-shard-size", "100KB"]),
    "peft": ("folder", ["--format", "peft"]),
    "mlx": ("folder", ["--format", "mlx"]),
    "mlx-int4": ("folder", ["--format", "mlx", "--quant", "int4", "--group-size", "32"]),
    "mlx-adapter": ("folder", ["--format", "mlx-adapter"]),
}


def visible(place):
    """The files that a user sees, by path, with their bytes."""
    paths = [path for path in sorted(place.rglob("*")) if path.is_file()]
    paths = [(str(path.relative_to(place)), path) for path in paths]
    return {name: path.read_bytes() for name, path in paths if not name.startswith(".")}


def is_whole(kind, found, old, new):
    """Whether what a killed process left is nothing, the old version or the new one."""
    if kind == "folder":
        return found in ({}, old, new)
    # Each file is whole; a Modelfile stands beside a file.
    if any(content not in (old.get(name), new.get(name)) for name, content in found.items()):
        return False
    first = [name for name in found if "-00001-of-" in name]
    return kind == "file" or all(
        any(version.get(name) == found[name] and version.items() <= found.items() for version in (parts_of(old, name), parts_of(new, name)))
        for name in first)


def parts_of(version, first):
    """The parts of a version that belong to this first one."""
    count = first.rsplit("-of-", 1)[1]
    return {name: content for name, content in version.items() if name.endswith(count)}


def killed_exports(program, root, adapter, kills, rng):
    killed = 0
    other = root / "other"
    subprocess.run(command(program, other, "--iters", "2", "--seed", "1"), check=True, stdout=subprocess.DEVNULL)
    of_old, of_new = ["--adapter", str(other / "adapter")], ["--adapter", str(adapter)]
    for name, (kind, flags) in FORMATS.items():
        place = root / f"export-{name}"
        target = place / ("out" if kind == "folder" else "out.gguf")
        base = [program, "--quiet", "export", "--model", str(ASSETS / "model"), "--output", str(target), "--overwrite", *flags]
        versions = []
        for more in (of_old, of_new):
            place.mkdir()
            started = time.time()
            subprocess.run([*base, *more], check=True, stdout=subprocess.DEVNULL)
            length = time.time() - started
            versions.append(visible(place))
            shutil.rmtree(place)
        old, new = versions
        check(old != new, f"export {name}: both versions are the same")
        for index in range(2 * kills):
            # Half of the kills come when there is nothing yet, half when there is an old version.
            fresh = index % 2 == 0
            place.mkdir()
            if not fresh:
                subprocess.run([*base, *of_old], check=True, stdout=subprocess.DEVNULL)
            was_killed, code, errors = killed_after([*base, *of_new], rng.uniform(0.3 * length, 1.05 * length))
            killed += was_killed
            check(was_killed or code == 0, f"export {name}: {errors}")
            found = visible(place)
            check(is_whole(kind, found, {} if fresh else old, new), f"export {name}: killed, it left {sorted(found)}")
            subprocess.run([*base, *of_new], check=True, stdout=subprocess.DEVNULL)
            everything = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
            left = sorted(everything - set(new) - (set() if fresh else set(old)))
            check(visible(place).items() >= new.items() and not left, f"export {name}: {left} were left behind")
            shutil.rmtree(place)
        # Ctrl-C leaves nothing, whenever it comes.
        for _ in range(kills):
            place.mkdir()
            process = subprocess.Popen([*base, *of_new], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(rng.uniform(0.0, length))
            process.send_signal(signal.SIGINT)
            process.wait()
            everything = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
            check(everything <= set(new) and is_whole(kind, visible(place), {}, new), f"export {name}: interrupted, it left {sorted(everything)}")
            shutil.rmtree(place)
    print(f"{killed} kills in exports to {len(FORMATS)} formats, each left nothing, the old version or the new one")


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
