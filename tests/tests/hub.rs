//! Models on the hub: downloaded from a local server with the same protocol, and found in the cache without a server.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use burnish_export::{HuggingFaceOptions, export_hugging_face};
use burnish_models::Pretrained;
use burnish_tests::{burnish, text};
use serde_json::json;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A sharded model, with further weight files that should not be downloaded.
fn repository(folder: &Path) -> PathBuf {
    let copy = folder.join("repository");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart/model");
    let model = Pretrained::open(&model).unwrap();
    let options = HuggingFaceOptions { shard_bytes: 1 << 19, ..HuggingFaceOptions::default() };
    export_hugging_face(&model, &*model.checkpoint, &copy, &options).unwrap();
    fs::write(copy.join("consolidated.safetensors"), [0; 64]).unwrap();
    fs::write(copy.join("pytorch_model.bin"), [0; 64]).unwrap();
    copy
}

/// Serves a folder as the model `owner/name`, and records the names of the files it served.
fn serve(folder: PathBuf) -> (String, Arc<Mutex<BTreeSet<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let served = Arc::new(Mutex::new(BTreeSet::new()));
    let kept = served.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, &folder, &kept).ok();
        }
    });
    (address, served)
}

/// Answers one request; each connection has only one.
fn answer(mut stream: TcpStream, folder: &Path, served: &Mutex<BTreeSet<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut request = lines.next().transpose()?.unwrap_or_default();
    if request.starts_with("CONNECT ") {
        // The client takes this for a proxy.
        lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
        write!(stream, "HTTP/1.1 200 OK\r\n\r\n")?;
        request = lines.next().transpose()?.unwrap_or_default();
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let is_range = |line: &str| line.to_ascii_lowercase().starts_with("range: bytes=0-0");
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let file = path.strip_prefix("/owner/name/resolve/main/");
    let (status, body) = if path == "/api/models/owner/name/revision/main" {
        let names = fs::read_dir(folder)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let siblings: Vec<_> = names.map(|name| json!({ "rfilename": name })).collect();
        ("200 OK", json!({ "sha": COMMIT, "siblings": siblings }).to_string().into_bytes())
    } else if let Some(bytes) = file.and_then(|file| fs::read(folder.join(file)).ok()) {
        served.lock().unwrap().insert(file.unwrap_or_default().to_owned());
        ("200 OK", bytes)
    } else {
        ("404 Not Found", Vec::new())
    };
    let size = body.len();
    let is_part = size > 0 && headers.iter().any(|line| is_range(line));
    let (status, body) = if is_part { ("206 Partial Content", &body[..1]) } else { (status, &body[..]) };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes 0-0/{size}\r\nETag: \"{}-{size}\"\r\n\
         x-repo-commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        body.len(),
        file.unwrap_or("info"),
    )?;
    stream.write_all(body)?;
    stream.flush()?;
    // A client that is still reading must not get a reset.
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read(&mut [0; 16]).map(drop)
}

fn generate(home: &Path, model: &str, with: impl Fn(&mut Command)) -> Output {
    let mut command = burnish(env!("CARGO_BIN_EXE_burnish-under-test"));
    command.env("HF_HOME", home).args([
        "--json",
        "generate",
        "--raw",
        "--max-tokens",
        "3",
        "--prompt",
        "the",
        "--model",
        model,
    ]);
    with(&mut command);
    command.output().unwrap()
}

#[test]
fn a_model_is_downloaded_once_and_then_found_offline() {
    let folder = tempfile::tempdir().unwrap();
    let (address, served) = serve(repository(folder.path()));
    let home = folder.path().join("home");
    let online = |command: &mut Command| {
        command.env("HF_ENDPOINT", &address).env_remove("HF_HUB_OFFLINE");
    };
    let fetched = generate(&home, "owner/name", online);
    let (answer, log) = text(&fetched);
    assert!(fetched.status.success(), "{log}");
    // Only the shards in the index are downloaded.
    let served: Vec<String> = served.lock().unwrap().iter().cloned().collect();
    assert!(served.iter().filter(|name| name.starts_with("model-0000")).count() > 1, "{served:?}");
    assert!(served.iter().all(|name| !name.contains("consolidated") && !name.contains("pytorch")), "{served:?}");
    // Through a proxy, which alone knows the address of the hub.
    let proxied = generate(&folder.path().join("other"), "owner/name", |command| {
        for name in ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", "http://hub.invalid").env("HTTP_PROXY", &address).env_remove("HF_HUB_OFFLINE");
    });
    assert!(proxied.status.success(), "{}", text(&proxied).1);
    // Without the server, the cached model gives the same answer.
    let cached = generate(&home, "owner/name", |command| {
        command.env("HF_ENDPOINT", "http://127.0.0.1:9");
    });
    let value = |line: &str| serde_json::from_str::<serde_json::Value>(line.trim()).unwrap()["tokens"].clone();
    assert!(cached.status.success(), "{}", text(&cached).1);
    assert_eq!(value(&text(&cached).0), value(&answer));
    // A file missing from the cache is reported by name.
    let snapshot = home.join("hub/models--owner--name/snapshots").join(COMMIT);
    let mut lost = fs::read_dir(&snapshot).unwrap().flatten().map(|entry| entry.path());
    fs::remove_file(lost.find(|path| path.to_string_lossy().contains("model-00001")).unwrap()).unwrap();
    let incomplete = text(&generate(&home, "owner/name", |_| {})).1;
    assert!(incomplete.contains("model-00001") && incomplete.contains("no such file"), "{incomplete}");
}

#[test]
fn a_missing_model_is_an_error_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let (address, _) = serve(repository(folder.path()));
    let offline = text(&generate(folder.path(), "owner/name", |_| {})).1;
    assert!(offline.contains("error: ") && offline.contains("HF_HUB_OFFLINE is set"), "{offline}");
    for model in ["owner/name@../../etc", "owner/../name", "owner/name/more", "owner/name@"] {
        let log = text(&generate(folder.path(), model, |_| {})).1;
        assert!(log.contains("a hub id like") && log.contains("hint: "), "{model}: {log}");
    }
    for (endpoint, model) in [(address.as_str(), "owner/other"), ("http://127.0.0.1:9", "owner/name")] {
        let log = text(&generate(folder.path(), model, |command| {
            command.env("HF_ENDPOINT", endpoint).env_remove("HF_HUB_OFFLINE");
        }));
        assert!(log.1.contains("error: ") && log.1.contains(model) && log.1.contains("hint: "), "{}", log.1);
    }
}
