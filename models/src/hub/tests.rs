use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::json;

use super::*;
use crate::Pretrained;

mod refusals;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A copy of the quickstart's small model with more files.
fn repository(folder: &Path, files: &[(&str, &str)]) -> PathBuf {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart/model");
    let copy = folder.join("repository");
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(model).unwrap().flatten() {
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    for (name, text) in files {
        fs::create_dir_all(copy.join(name).parent().unwrap()).unwrap();
        fs::write(copy.join(name), text).unwrap();
    }
    copy
}

/// Serves a folder as the model `owner/name`.
fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, &folder).ok();
        }
    });
    address
}

/// Answers the one request of a connection.
fn answer(mut stream: TcpStream, folder: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let path = lines.next().transpose()?.unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: Vec<String> = lines.map_while(std::io::Result::ok).take_while(|line| !line.is_empty()).collect();
    let file = path.strip_prefix("/owner/name/resolve/main/");
    let body = if path == "/api/models/owner/name/revision/main" {
        let mut names = Vec::new();
        list(folder, "", 0, &mut names)?;
        let siblings: Vec<_> = names.iter().map(|name| json!({ "rfilename": name })).collect();
        Some(json!({ "sha": COMMIT, "siblings": siblings }).to_string().into_bytes())
    } else {
        file.and_then(|file| fs::read(folder.join(file)).ok())
    };
    let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
    let body = body.unwrap_or_default();
    let size = body.len();
    let is_part = size > 0 && headers.iter().any(|line| line.to_ascii_lowercase().starts_with("range: bytes=0-0"));
    let (status, body) = if is_part { ("206 Partial Content", &body[..1]) } else { (status, &body[..]) };
    let tag = file.unwrap_or("info").replace('/', "-");
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes 0-0/{size}\r\nETag: \"{tag}-{size}\"\r\n\
         x-repo-commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        body.len(),
    )?;
    stream.write_all(body)?;
    stream.flush()?;
    // Closing at once would reset the connection while the client is still reading.
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read(&mut [0; 16]).map(drop)
}

fn environment(folder: &Path, endpoint: String) -> HubEnvironment {
    HubEnvironment { endpoint: Some(endpoint), cache: folder.join("cache"), offline: false, token: None }
}

#[test]
fn a_hub_id_and_its_folder_are_the_same_model() {
    let root = tempfile::tempdir().unwrap();
    let files = [
        ("added_tokens.json", r#"{"<|a|>": 512, "<|b|>": 513}"#),
        ("special_tokens_map.json", "{}"),
        ("chat_template.jinja", "{{ messages }}"),
        ("chat_template.json", r#"{"chat_template": "{{ messages }}"}"#),
        ("processor_config.json", "{}"),
        ("additional_chat_templates/tool_use.jinja", "{{ tools }}"),
        ("training_args.bin", "not asked for"),
        ("onnx/model.onnx", "not asked for"),
    ];
    let folder = repository(root.path(), &files);
    let online = environment(root.path(), serve(folder.clone()));
    let fetched = fetch_model_in(&online, "owner/name").unwrap();
    let mut names = Vec::new();
    list(&fetched, "", 0, &mut names).unwrap();
    for (name, _) in &files {
        let is_read = !name.starts_with("training") && !name.starts_with("onnx");
        assert_eq!(names.iter().any(|found| found == name), is_read, "{name} of {names:?}");
    }
    let (hub, own) = (&Pretrained::open(&fetched), &Pretrained::open(&folder));
    let (hub, own) = (hub.as_ref().unwrap(), own.as_ref().unwrap());
    let encode = |model: &Pretrained| model.tokenizer.encode("go <|a|> now <|b|>", false).unwrap();
    assert_eq!(encode(hub), encode(own));
    assert!(encode(hub).contains(&512) && encode(hub).contains(&513), "{:?}", encode(hub));
    assert_eq!(hub.checkpoint.names(), own.checkpoint.names());
    // Offline, the model is found in the cache of the environment.
    let offline = HubEnvironment { offline: true, endpoint: None, ..online.clone() };
    assert_eq!(fetch_model_in(&offline, "owner/name").unwrap(), fetched);
    let elsewhere = HubEnvironment { cache: root.path().join("other"), ..offline };
    assert!(fetch_model_in(&elsewhere, "owner/name").unwrap_err().to_string().contains("not in the cache"));
}

#[test]
fn unsupported_models_are_refused_before_weights_are_fetched() {
    let root = tempfile::tempdir().unwrap();
    let error = |name: &str, remove: &[&str], files: &[(&str, &str)]| {
        let folder = repository(&root.path().join(name), files);
        for file in remove {
            fs::remove_file(folder.join(file)).unwrap();
        }
        let environment = environment(&root.path().join(name), serve(folder));
        fetch_model_in(&environment, "owner/name").unwrap_err().to_string()
    };
    let adapter = json!({ "peft_type": "LORA", "base_model_name_or_path": "owner/base" }).to_string();
    let text = error("adapter", &["config.json", "model.safetensors"], &[("adapter_config.json", &adapter)]);
    assert!(text.contains("owner/name: expected a model, got a PEFT adapter") && text.contains("owner/base"), "{text}");
    let config = json!({ "quantization": { "bits": 3, "group_size": 64 } }).to_string();
    let index =
        json!({ "weight_map": { "a.weight": "model-1.safetensors", "a.scales": "model-1.safetensors" } }).to_string();
    let files = [("config.json", config.as_str()), ("model.safetensors.index.json", &index)];
    let text = error("quantised", &["model.safetensors"], &files);
    assert!(text.contains("owner/name is quantised (MLX, 3 bits"), "{text}");
    let text = error("gguf", &["config.json"], &[("a-Q4_0.gguf", "")]);
    assert!(text.contains("a-Q4_0.gguf"), "{text}");
}

#[test]
fn weights_of_pytorch_are_fetched_where_there_are_no_others() {
    let root = tempfile::tempdir().unwrap();
    let fetch = |name: &str, weights: &[(&str, &str)], remove: &[&str]| {
        let folder = repository(&root.path().join(name), weights);
        for file in remove {
            fs::remove_file(folder.join(file)).unwrap();
        }
        fetch_model_in(&environment(&root.path().join(name), serve(folder)), "owner/name")
    };
    let own = ["model.safetensors"];
    let both = fetch("both", &[("pytorch_model.bin", "PK")], &[]).unwrap();
    assert!(both.join(own[0]).exists() && !both.join("pytorch_model.bin").exists());
    let single = fetch("single", &[("pytorch_model.bin", "PK"), ("other.bin", "PK")], &own).unwrap();
    assert!(single.join("pytorch_model.bin").exists() && !single.join("other.bin").exists());
    let index = json!({ "weight_map": { "a": "part-1.bin", "b": "part-2.bin" } }).to_string();
    let shards = [("pytorch_model.bin.index.json", index.as_str()), ("part-1.bin", "PK"), ("part-2.bin", "PK")];
    let sharded = fetch("sharded", &shards, &own).unwrap();
    assert!(sharded.join("part-1.bin").exists() && sharded.join("part-2.bin").exists());
    let none = fetch("none", &[], &own).unwrap_err().to_string();
    assert!(none.contains("pytorch_model.bin") && none.contains("found none of them"), "{none}");
}
