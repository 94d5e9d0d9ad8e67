//! Uploads to a local server that speaks the hub's protocol; `tests/scripts/judge_push.py` compares with huggingface_hub.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use burnish_export::hub::files_of;
use burnish_export::{HubError, HubUpload};
use burnish_models::HubEnvironment;
use serde_json::{Value, json};

const TOKEN: &str = "hf_secret";

/// What the server has, and how it answers.
#[derive(Default)]
struct Hub {
    address: String,
    /// Method and path of each request, with whether it had the token.
    requests: Vec<(String, bool)>,
    /// The bytes of large files, by their parts' addresses.
    stored: BTreeMap<String, Vec<u8>>,
    commits: Vec<Vec<Value>>,
    /// A status for the first request whose path contains the text.
    refuse: Option<(&'static str, u16)>,
    /// How many requests to the storage fail first.
    faults: usize,
    /// Bytes of a part, if large files are sent in parts.
    chunk: Option<u64>,
}

fn serve(hub: Hub) -> (HubEnvironment, Arc<Mutex<Hub>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let hub = Arc::new(Mutex::new(Hub { address: address.clone(), ..hub }));
    let shared = hub.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, &shared).ok();
        }
    });
    let variables = [("HF_ENDPOINT", address.as_str()), ("HF_TOKEN", TOKEN)];
    let find = |key: &str| variables.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned());
    (HubEnvironment::from_lookup(find), hub)
}

/// Answers one request; each connection has only one.
fn answer(mut stream: TcpStream, hub: &Mutex<Hub>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut headers) = (String::new(), BTreeMap::new());
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    // Storage refuses bodies whose length is not known in advance.
    let length = headers.get("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let request = first.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let has_token = headers.get("authorization").is_some_and(|value| *value == format!("Bearer {TOKEN}"));
    let (status, json) = {
        let mut hub = hub.lock().unwrap();
        hub.requests.push((request.clone(), has_token));
        let fails = hub.faults > 0 && request.starts_with("PUT");
        match hub.refuse.filter(|(part, _)| request.contains(part)) {
            _ if fails => {
                hub.faults -= 1;
                (503, json!({}))
            }
            Some((_, status)) => (status, json!({ "error": "the reason" })),
            None if length.is_none() && !request.starts_with("GET") => (411, json!({})),
            None => respond(&mut hub, &request, &headers, &body),
        }
    };
    let text = json.to_string();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nETag: \"tag-{request}\"\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )?;
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read(&mut [0; 16]).map(drop)
}

fn respond(hub: &mut Hub, request: &str, headers: &BTreeMap<String, String>, body: &[u8]) -> (u16, Value) {
    let json = || serde_json::from_slice::<Value>(body).unwrap();
    match request {
        "GET /api/whoami-v2" => (200, json!({ "name": "someone" })),
        "POST /api/repos/create" => {
            let (json, visibility) = (json(), "private");
            assert_eq!(json, json!({ "name": "name", "organization": "owner", "type": "model", "visibility": visibility }));
            (200, json!({ "url": format!("{}/owner/name", hub.address) }))
        }
        "POST /api/models/owner/name/preupload/main" => {
            let files = json()["files"].as_array().unwrap().clone();
            let mode = |file: &Value| {
                assert!(file["sample"].is_string() && file["size"].is_u64());
                let path = file["path"].as_str().unwrap();
                let mode = if path.ends_with(".safetensors") { "lfs" } else { "regular" };
                json!({ "path": path, "uploadMode": mode, "shouldIgnore": path.ends_with(".tmp") })
            };
            (200, json!({ "files": files.iter().map(mode).collect::<Vec<_>>() }))
        }
        "POST /owner/name.git/info/lfs/objects/batch" => {
            assert_eq!(headers["accept"], "application/vnd.git-lfs+json");
            let objects = json()["objects"].as_array().unwrap().clone();
            let object = |object: &Value| {
                let (oid, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap());
                if hub.stored.contains_key(&format!("/store/{oid}")) {
                    return json!({ "oid": oid, "size": size });
                }
                let mut header = json!({ "x-own": "1" });
                // Not the hub's own address: the token must not go there.
                let mut href = format!("{}/store/{oid}", hub.address.replace("127.0.0.1", "localhost"));
                if let Some(chunk) = hub.chunk {
                    header = json!({ "chunk_size": chunk.to_string() });
                    for part in 1..=size.div_ceil(chunk) {
                        header[part.to_string()] = json!(format!("{href}/{part}"));
                    }
                    href = format!("{}/complete/{oid}", hub.address);
                }
                let verify = json!({ "href": format!("{}/verify/{oid}", hub.address) });
                let actions = json!({ "upload": { "href": href, "header": header }, "verify": verify });
                json!({ "oid": oid, "size": size, "actions": actions })
            };
            let objects: Vec<Value> = objects.iter().map(object).collect();
            (200, json!({ "transfer": "basic", "objects": objects }))
        }
        "POST /api/models/owner/name/commit/main" => {
            assert_eq!(headers["content-type"], "application/x-ndjson");
            let lines = std::str::from_utf8(body).unwrap().lines().map(|line| serde_json::from_str(line).unwrap());
            hub.commits.push(lines.collect());
            (200, json!({ "success": true }))
        }
        other if other.starts_with("PUT /store/") => {
            assert_eq!(headers.contains_key("x-own"), hub.chunk.is_none());
            hub.stored.insert(other.trim_start_matches("PUT ").to_owned(), body.to_vec());
            (200, json!({}))
        }
        other if other.starts_with("POST /complete/") => {
            let parts = json()["parts"].as_array().unwrap().clone();
            assert!(parts.iter().enumerate().all(|(at, part)| part["partNumber"] == at + 1 && part["etag"].is_string()));
            (200, json!({}))
        }
        other if other.starts_with("POST /verify/") => (200, json!({})),
        _ => (404, json!({ "error": "not found" })),
    }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    std::fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
    put("config.json", b"{}");
    put("model.safetensors", &[7; 2500]);
    put("empty.safetensors", b"");
    put("scratch.tmp", b"x");
    put(".hidden", b"x");
    put("additional_chat_templates/tool_use.jinja", b"{{ x }}");
    folder
}

fn push(environment: &HubEnvironment, path: &Path) -> Result<burnish_export::hub::Uploaded, HubError> {
    HubUpload::new(environment, "owner/name")?.push(&files_of(path)?, false, "Say something", |_| {})
}

#[test]
fn a_folder_becomes_one_commit() {
    for chunk in [None, Some(1000)] {
        let work = folder();
        let (environment, hub) = serve(Hub { chunk, faults: 1, ..Hub::default() });
        assert_eq!(HubUpload::new(&environment, "owner/name").unwrap().user().unwrap(), "someone");
        let uploaded = push(&environment, work.path()).unwrap();
        let hub = hub.lock().unwrap();
        assert_eq!((uploaded.files, uploaded.bytes), (4, 2500));
        assert_eq!(uploaded.url, format!("{}/owner/name", hub.address));
        let [commit] = &hub.commits[..] else { panic!("expected one commit") };
        assert_eq!(commit[0], json!({ "key": "header", "value": { "summary": "Say something", "description": "" } }));
        let file = |name: &str, content: &str| json!({ "key": "file", "value": { "content": content, "path": name, "encoding": "base64" } });
        // sha256 of 2,500 bytes of 7.
        let oid = commit[4]["value"]["oid"].as_str().unwrap().to_owned();
        assert_eq!(oid.len(), 64);
        assert_eq!(commit[1], file("additional_chat_templates/tool_use.jinja", "e3sgeCB9fQ=="));
        assert_eq!(commit[2..4], [file("config.json", "e30="), file("empty.safetensors", "")]);
        let large = json!({ "path": "model.safetensors", "algo": "sha256", "oid": oid, "size": 2500 });
        assert_eq!(commit[4..], [json!({ "key": "lfsFile", "value": large })]);
        let stored: Vec<u8> = hub.stored.values().flatten().copied().collect();
        assert_eq!((stored, hub.stored.len()), (vec![7; 2500], chunk.map_or(1, |_| 3)));
        // The token goes to the hub alone.
        for (request, has_token) in &hub.requests {
            assert_eq!(*has_token, !request.contains("/store/"), "{request}");
        }
    }
}

#[test]
fn what_the_hub_has_is_not_sent_again() {
    let work = folder();
    let (environment, hub) = serve(Hub::default());
    push(&environment, work.path()).unwrap();
    assert_eq!(push(&environment, work.path()).unwrap().bytes, 0);
    let puts = hub.lock().unwrap().requests.iter().filter(|(request, _)| request.starts_with("PUT")).count();
    assert_eq!(puts, 1);
}

#[test]
fn refusals_say_what_failed_and_make_no_commit() {
    let work = folder();
    for (part, status, said) in [
        ("repos/create", 401, "can't create the repository: the hub does not accept the token (401): the reason"),
        ("preupload", 403, "can't announce the files: the token has no right to do that (403): the reason"),
        ("preupload", 404, "there is no such repository, or the token does not see it (404)"),
        ("objects/batch", 413, "it is too large for the hub (413)"),
        ("PUT", 403, "can't upload model.safetensors: the token has no right"),
        ("commit", 409, "can't make the commit: the repository was changed meanwhile (409)"),
    ] {
        let (environment, hub) = serve(Hub { refuse: Some((part, status)), ..Hub::default() });
        let error = push(&environment, work.path()).unwrap_err().to_string();
        assert!(error.starts_with("owner/name: ") && error.contains(said) && !error.contains(TOKEN), "{part}: {error}");
        assert!(hub.lock().unwrap().commits.is_empty());
    }
    // A repository that exists is used.
    let (environment, hub) = serve(Hub { refuse: Some(("repos/create", 409)), ..Hub::default() });
    push(&environment, work.path()).unwrap();
    assert_eq!(hub.lock().unwrap().commits.len(), 1);
}

#[test]
fn nothing_is_sent_without_a_token_an_id_or_leave_to() {
    let (environment, hub) = serve(Hub::default());
    let with = |change: fn(&mut HubEnvironment), id: &str| {
        let mut environment = environment.clone();
        change(&mut environment);
        HubUpload::new(&environment, id).err().unwrap().to_string()
    };
    assert!(with(|environment| environment.token = None, "owner/name").contains("only with an access token"));
    assert!(with(|environment| environment.offline = true, "owner/name").contains("HF_HUB_OFFLINE"));
    for id in ["name", "owner/", "/name", "owner/name/more", "owner/na me", "../name", "owner/-name", ""] {
        assert!(with(|_| {}, id).contains("expected the id of a repository"), "{id}");
    }
    assert!(hub.lock().unwrap().requests.is_empty());
    let gone = HubEnvironment { endpoint: Some("http://127.0.0.1:9".to_owned()), ..environment };
    let error = HubUpload::new(&gone, "owner/name").unwrap().user().unwrap_err();
    assert!(matches!(error, HubError::Network { .. }), "{error}");
}

#[test]
fn a_gguf_file_is_uploaded_with_its_parts() {
    let work = tempfile::tempdir().unwrap();
    let part = |number: u16| {
        let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let key = |name: &str, value: u16| [text(name), 2u32.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()].concat();
        let head = [&b"GGUF"[..], &3u32.to_le_bytes(), &0u64.to_le_bytes(), &2u64.to_le_bytes()].concat();
        let mut bytes = [head, key("split.no", number), key("split.count", 2)].concat();
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        let path = work.path().join(format!("m-{:05}-of-00002.gguf", number + 1));
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let paths = [part(0), part(1)];
    std::fs::write(work.path().join("other.gguf"), b"").unwrap();
    let names: Vec<String> = files_of(&paths[0]).unwrap().into_iter().map(|file| file.name).collect();
    assert_eq!(names, ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]);
    assert!(files_of(&paths[1]).is_err());
    assert!(files_of(&work.path().join("none")).unwrap_err().to_string().contains("none"));
}
