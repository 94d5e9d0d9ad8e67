"""Reads the files of `report_to` back by the programs that they are for.

    pip install setuptools tensorboard==2.21.0 wandb==0.31.0 'trackio[tensorboard]==0.43.0'
    python tests/scripts/judge_trackers.py target/release/burnish

Trains the quickstart's model twice, once to the end and once killed and resumed, with `--report-to tensorboard,trackio,wandb`. Then
TensorBoard's own reader, `wandb sync` against a local server, trackio's dashboard and command line, and its import of TensorBoard's
files must give every step of metrics.jsonl exactly once. trackio's dashboard has seen steps of the killed run that it takes again.
"""

import contextlib
import gzip
import io
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import shutil
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "recipes/assets/quickstart/model"
STEPS, KILLED_AFTER, SAVE_EVERY = 60, 47, 20
TAGS = {"train/loss": "loss", "train/learning_rate": "learning_rate", "train/grad_norm": "grad_norm"}


class Wandb(BaseHTTPRequestHandler):
    """As much of a server of W&B as `wandb sync` needs; keeps what it is sent."""

    files, run = {}, {}

    def log_message(self, *_):
        pass

    def reply(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def do_GET(self):
        self.reply({})

    def do_PUT(self):
        self.body()
        self.reply({})

    def do_POST(self):
        body = self.body()
        if self.path.endswith("/file_stream"):
            sent = json.loads(body)
            for name, part in (sent.get("files") or {}).items():
                lines = Wandb.files.setdefault(name, [])
                lines[part["offset"]:] = part["content"]
            Wandb.run.update({key: sent[key] for key in ("complete", "exitcode") if key in sent})
            return self.reply({"limits": {}})
        if not self.path.startswith("/graphql"):
            return self.reply({})
        query = json.loads(body)
        text, variables = query["query"], query.get("variables") or {}
        if "upsertBucket" in text:
            Wandb.run.update({key: value for key, value in variables.items() if value is not None})
            project = {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "b", "name": variables.get("name"), "displayName": variables.get("displayName"), "config": "{}",
                      "project": project, "historyLineCount": 0}
            return self.reply({"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}})
        if "createRunFiles" in text:
            base = f"http://127.0.0.1:{self.server.server_port}/up/"
            files = [{"name": name, "uploadUrl": base + name} for name in variables["files"]]
            return self.reply({"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}})
        return self.reply({"data": {"serverInfo": None, "model": {"bucket": None}}})


def synced(run):
    """What `wandb sync` sends of a run: its rows, and the run itself."""
    Wandb.files, Wandb.run = {}, {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Wandb)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folders = list((run / "wandb").glob("offline-run-*"))
    assert len(folders) == 1, folders
    environment = {**os.environ, "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": "a" * 40}
    program = pathlib.Path(sys.executable).parent / "wandb"
    done = subprocess.run([program, "sync", folders[0]], cwd=run, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Finished syncing" in done.stdout + done.stderr, done.stdout + done.stderr
    server.shutdown()
    return [json.loads(line) for line in Wandb.files["wandb-history.jsonl"]], dict(Wandb.run)


def imported(run):
    """What `trackio.import_tf_events` keeps of a run: the values of each tag by step."""
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    project = f"judged-{run.name}"
    with contextlib.redirect_stdout(io.StringIO()):
        trackio.import_tf_events(log_dir=str(run / "tensorboard"), project=project)
    names = SQLiteStorage.get_runs(project)
    assert len(names) == 1, names
    values = {}
    for line in SQLiteStorage.get_logs(project, names[0]):
        for tag, value in line.items():
            if tag not in ("step", "timestamp"):
                assert values.setdefault(tag, {}).setdefault(line["step"], value) == value, (tag, line)
    return values


def dashboard():
    """Runs trackio's dashboard until it has imported what lies in its inbox."""
    inbox = pathlib.Path(os.environ["TRACKIO_DIR"]) / "inbox"
    program = pathlib.Path(sys.executable).parent / "trackio"
    environment = {**os.environ, "BROWSER": "true", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([program, "show", "--project", "judged"], env=environment, stdout=log, stderr=log)
        until = time.monotonic() + 120
        while list(inbox.rglob("*.jsonl")) and time.monotonic() < until and process.poll() is None:
            time.sleep(0.5)
        process.terminate()
        process.wait(30)
        log.seek(0)
        assert not list(inbox.rglob("*.jsonl")), log.read()


def logged(run, metric):
    """What trackio's own command line prints of a metric: step and value of each row."""
    program = pathlib.Path(sys.executable).parent / "trackio"
    command = [program, "get", "metric", "--project", "judged", "--run", run, "--metric", metric, "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [(row["step"], float(row["value"])) for row in json.loads(done.stdout)["values"]]


def close(one, other):
    return math.isclose(one, other, rel_tol=1e-6) or (math.isnan(one) and math.isnan(other))


def command(program, data, run, *more):
    return [program, "--json", "train", "--model", MODEL, "--data", data, "--output-dir", run, "--backend", "cpu", "--iters",
            str(STEPS), "--batch-size", "2", "--max-seq-length", "64", "--rank", "4", "--val-split", "4", "--steps-per-eval", "10",
            "--save-every", str(SAVE_EVERY), "--report-to", "tensorboard,trackio,wandb", "--project-name", "judged", *more]


def judge(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    for tag, key in TAGS.items():
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == list(range(1, STEPS + 1)), (tag, [scalar.step for scalar in scalars])
        assert all(close(scalar.value, line[key]) for scalar, line in zip(scalars, lines)), tag
    assert [scalar.step for scalar in events.Scalars("eval/loss")] == list(range(10, STEPS + 1, 10))
    text = events.Tensors("args/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "rank = 4" in text and 'project_name = "judged"' in text
    content = events.PluginTagToContent("hparams")
    start = plugin_data_pb2.HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info
    assert start.hparams["rank"].number_value == 4 and start.hparams["backend"].string_value == "cpu"
    assert plugin_data_pb2.HParamsPluginData.FromString(content["_hparams_/session_end_info"]).session_end_info.status == 1

    kept = imported(run)
    for tag, key in TAGS.items():
        assert sorted(kept[tag]) == list(range(1, STEPS + 1)), (tag, sorted(kept[tag]))
        assert all(close(kept[tag][line["step"]], line[key]) for line in lines), tag

    dashboard()
    for tag, key in TAGS.items():
        values = logged(run.name, tag)
        assert [step for step, _ in values] == list(range(1, STEPS + 1)), (tag, values)
        assert all(close(value, line[key]) for (_, value), line in zip(values, lines)), tag
    assert [step for step, _ in logged(run.name, "eval/loss")] == list(range(10, STEPS + 1, 10))
    import trackio

    runs = [one for one in trackio.Api().runs("judged") if one.name == run.name]
    assert len(runs) == 1 and runs[0].config["rank"] == 4 and runs[0].config["backend"] == "cpu", runs

    rows, sent = synced(run)
    assert [row["_step"] for row in rows] == list(range(1, STEPS + 1)), [row["_step"] for row in rows]
    for tag, key in TAGS.items():
        assert all(close(float(row[tag]), line[key]) for row, line in zip(rows, lines)), tag
    assert [row["_step"] for row in rows if "eval/loss" in row] == list(range(10, STEPS + 1, 10))
    assert sent["project"] == "judged" and sent["complete"] and sent["exitcode"] == 0, sent
    assert json.loads(sent["config"])["rank"]["value"] == 4
    runtimes = [row["_runtime"] for row in rows]
    assert runtimes == sorted(runtimes)
    return [row["train/loss"] for row in rows]


def main():
    program = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        os.environ["TRACKIO_DIR"] = str(folder / "trackio")
        data = folder / "train.jsonl"
        data.write_text("".join(json.dumps({"text": f"Table for {n % 9} at {n}."}) + "\n" for n in range(40)))
        whole = folder / "whole"
        subprocess.run(command(program, data, whole), check=True, stdout=subprocess.DEVNULL)
        losses = judge(whole)
        print(f"whole run: {STEPS} steps read back by TensorBoard, wandb sync and trackio")

        broken = folder / "broken"
        process = subprocess.Popen(command(program, data, broken), stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if json.loads(line).get("step") == KILLED_AFTER:
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
        dashboard()
        # Without its newest checkpoint the run takes steps again that trackio has imported.
        shutil.rmtree(broken / f"checkpoint-{KILLED_AFTER // SAVE_EVERY * SAVE_EVERY}")
        again = command(program, data, broken, "--resume", "auto")
        told = subprocess.run(again, check=True, stdout=subprocess.PIPE, text=True).stdout
        assert f"trackio has imported steps {KILLED_AFTER // SAVE_EVERY * SAVE_EVERY - 9} to" in told, told
        assert judge(broken) == losses
        files = len(list((broken / "tensorboard").iterdir()))
        print(f"run killed after step {KILLED_AFTER} and resumed: every step once, in {files} event files, one wandb run and one of trackio")


if __name__ == "__main__":
    main()
