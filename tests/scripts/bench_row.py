"""Rows of `recipes/results/`, written by the other benchmark scripts in the format of `burnish bench --output`."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path


def gpus():
    """Name and driver of each GPU, as in `burnish bench`."""
    try:
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")[:-1]
    except (OSError, subprocess.CalledProcessError):
        return []


def machine():
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu, "threads": threads, "gpus": gpus(), "system": f"{platform.system().lower()} {platform.machine()}"}


def versions(*packages):
    return {"python": platform.python_version(), **{package: importlib.metadata.version(package) for package in packages}}


def slug(name):
    return "-".join(re.sub(r"[^a-z0-9.]", " ", name.lower()).split())


def document(**found):
    """What was found, with when, where and how: the command as it was typed, absolute paths cut to their last part."""
    arguments = [Path(argument).name if argument.startswith("/") else argument for argument in sys.argv]
    command = " ".join(["python3", *arguments])
    return {"date": time.strftime("%Y-%m-%d", time.gmtime()), "machine": machine(), "command": command, **found}


def save(row, what, folder):
    """Writes `<date>-<what>-<machine>.json`. Nothing is overwritten."""
    where = row["machine"]
    name = slug(where["gpus"][0].split(",")[0]) if where["gpus"] else slug(where["cpu"])
    stem = f"{row['date']}-{slug(what)}-{name}"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, number = folder / f"{stem}.json", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.json"
    path.write_text(json.dumps(row, indent=2) + "\n")
    print(f"wrote {path}", file=sys.stderr)
