"""Uploads a folder with huggingface_hub and with Burnish to a local server, and compares what each sends.

    python tests/scripts/judge_push.py target/release/burnish

The server speaks the hub's protocol: repositories, preupload, the batch API of Git LFS with files as a whole and in parts, commits. Of both
clients, the requests in order, their bodies and the stored bytes must be equal. Versions: requirements.txt, with huggingface_hub 2.4.0.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
from huggingface_hub import HfApi  # noqa: E402

TOKEN, MESSAGE = "hf_local", "Upload with Burnish"
# Values that differ from run to run.
ADDRESS = "http://127.0.0.1"


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, value, status=200):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{self.path.rsplit("/", 1)[-1]}"')
        self.end_headers()
        self.wfile.write(data)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self):
        self.server.seen.append(("GET", self.path, None))
        if self.path == "/api/whoami-v2":
            return self.answer({"name": "someone", "type": "user", "auth": {}})
        return self.answer({"id": "owner/name", "sha": "0" * 40, "siblings": []})

    def do_PUT(self):
        data, server = self.body(), self.server
        # The real storage takes bodies of known length only.
        if "Content-Length" not in self.headers:
            return self.answer({}, 411)
        assert "Authorization" not in self.headers or server.client == "huggingface_hub", "the token went to the storage"
        server.stored[self.path] = data
        return self.answer({})

    def do_POST(self):
        data, server = self.body(), self.server
        path = self.path.split("?")[0]
        kind = (self.headers.get("Content-Type") or "").split(";")[0]
        lines = [json.loads(line) for line in data.decode().splitlines()] if "ndjson" in kind else json.loads(data)
        server.seen.append(("POST", path, (kind, lines)))
        if path != "/complete":
            assert self.headers["Authorization"] == f"Bearer {TOKEN}", path
        if path == "/api/repos/create":
            return self.answer({"url": f"{server.address}/owner/name"})
        if path.endswith("/preupload/main"):
            files = [{"path": file["path"], "shouldIgnore": False, "oid": None,
                      "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"} for file in lines["files"]]
            return self.answer({"files": files})
        if path.endswith("/objects/batch"):
            def action(entry):
                oid, size = entry["oid"], entry["size"]
                upload = {"href": f"{server.address}/store/{oid}"}
                if server.chunk and size > server.chunk:
                    count = -(-size // server.chunk)
                    header = {"chunk_size": str(server.chunk)} | {f"{at:05}": f"{upload['href']}/{at}" for at in range(1, count + 1)}
                    upload = {"href": f"{server.address}/complete", "header": header}
                verify = {"href": f"{server.address}/owner/name.git/info/lfs/objects/verify"}
                return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}
            return self.answer({"transfer": "basic", "objects": [action(entry) for entry in lines["objects"]]})
        if path.endswith("/commit/main"):
            return self.answer({"success": True, "commitUrl": f"{server.address}/owner/name/commit/1", "commitOid": "1"})
        return self.answer({})


def serve(client, chunk):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.client, server.chunk, server.seen, server.stored = client, chunk, [], {}
    server.address = f"{ADDRESS}:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def relevant(server):
    """What was sent, without what does not matter: who asks first, and which files come in which order."""
    kept = []
    for method, path, content in server.seen:
        # huggingface_hub asks whether the header of README.md is valid.
        if method == "GET" or path == "/api/validate-yaml":
            continue
        kind, body = content
        if isinstance(body, list):
            body = sorted(body, key=json.dumps)
        for key in ("files", "objects"):
            if isinstance(body, dict) and key in body:
                body = {**body, key: sorted(body[key], key=json.dumps)}
        kept.append((method, path, kind, json.dumps(body, sort_keys=True)))
    return sorted(kept)


def main(program):
    failed = False
    for chunk in (None, 1000):
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            (work / "config.json").write_text("{}")
            (work / "README.md").write_text("# A model\n")
            (work / "empty.safetensors").write_bytes(b"")
            (work / "model.safetensors").write_bytes(bytes(range(256)) * 20)
            (work / "additional_chat_templates").mkdir()
            (work / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages }}")
            theirs = serve("huggingface_hub", chunk)
            api = HfApi(endpoint=theirs.address, token=TOKEN)
            api.create_repo("owner/name", repo_type="model", visibility="private", exist_ok=True)
            api.upload_folder(repo_id="owner/name", folder_path=work, commit_message=MESSAGE)
            ours = serve("burnish", chunk)
            environment = {**os.environ, "HF_ENDPOINT": ours.address, "HF_TOKEN": TOKEN}
            subprocess.run([program, "push", work, "owner/name"], check=True, env=environment)
            one, other = relevant(theirs), relevant(ours)
            same = one == other and theirs.stored == ours.stored
            failed |= not same
            print("ok:" if same else "FAILED:", f"{len(other)} requests, {len(ours.stored)} stored, parts of {chunk}")
            for theirs_, ours_ in zip(one, other):
                if theirs_ != ours_:
                    print("huggingface_hub:", theirs_, "\nburnish:        ", ours_)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
