//! What the hub refuses, connections that break, and servers that don't keep to the protocol.

use std::sync::{Arc, Mutex};

use super::*;

/// An answer: its status, how many of the bytes that it promises are sent, and the bytes.
type Answer = (u16, usize, Vec<u8>);

/// The paths and ranges that were asked for.
type Asked = Arc<Mutex<Vec<(String, Option<u64>)>>>;

/// Serves what `answer` returns for a path and its `Range` and `Authorization`; also returns the ranges asked for.
fn serving(answer: impl Fn(&str, Option<u64>, bool) -> Answer + Send + 'static) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = asked.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(std::io::Result::ok);
            let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
            let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
            let value = |name: &str| headers.iter().find_map(|line| line.strip_prefix(name));
            // `0-0` asks for the size; the rest of the file begins at `N-`.
            let range = value("range: bytes=").filter(|range| *range != "0-0").and_then(|range| range.strip_suffix('-'));
            let range = range.and_then(|start| start.parse().ok());
            kept.lock().unwrap().push((path.clone(), range));
            let (status, sent, body) = answer(&path, range, value("authorization:").is_some());
            let head = format!(
                "HTTP/1.1 {status} Any\r\nContent-Length: {}\r\nContent-Range: bytes 0-0/{}\r\nETag: \"tag\"\r\n\
                 x-repo-commit: {COMMIT}\r\nConnection: close\r\n\r\n",
                body.len(),
                ROWS.len()
            );
            // The client may leave early.
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..sent.min(body.len())])).ok();
            stream.shutdown(std::net::Shutdown::Write).ok();
            stream.read_to_end(&mut Vec::new()).ok();
        }
    });
    (address, asked)
}

/// The file of the repository.
const ROWS: &[u8] = b"{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
const FILE: &str = "train.jsonl";

fn info() -> Answer {
    let body = json!({ "sha": COMMIT, "siblings": [{ "rfilename": FILE }] }).to_string().into_bytes();
    (200, body.len(), body)
}

fn is_info(path: &str) -> bool {
    path.starts_with("/api/")
}

/// The reason and the way out of a failure.
fn refused(environment: &HubEnvironment) -> (String, String) {
    let fetched = HubRepository::model_in(environment, "owner/name").and_then(|repository| repository.fetch(FILE));
    match fetched.unwrap_err() {
        ModelError::Hub { id, reason, way } => {
            assert_eq!(id, "owner/name");
            (reason, way.unwrap_or_default())
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_gated_repository_says_where_to_accept_its_terms_and_how_to_give_a_token() {
    let root = tempfile::tempdir().unwrap();
    for (status, token) in [(401, None), (403, None), (401, Some("hf_a")), (403, Some("hf_a"))] {
        let has_token = token.is_some();
        let (address, _) = serving(move |path, _, authorized| {
            assert_eq!(authorized, has_token);
            if is_info(path) { info() } else { (status, 0, Vec::new()) }
        });
        let token = token.map(str::to_owned);
        let (reason, way) = refused(&HubEnvironment { token, ..environment(root.path(), address.clone()) });
        assert!(reason.starts_with("train.jsonl: ") && reason.ends_with(&format!("(status {status})")), "{reason}");
        assert!(way.contains(&format!("{address}/settings/tokens")), "{way}");
        let has_terms = status == 403 || !has_token;
        assert_eq!(way.contains(&format!("accept them on {address}/owner/name,")), !has_token, "{way}");
        assert_eq!(way.contains(&format!("{address}/owner/name")), has_terms, "{way}");
        assert!(!format!("{reason} {way}").contains("hf_a"));
    }
}

#[test]
fn what_the_hub_answers_is_told() {
    let root = tempfile::tempdir().unwrap();
    for (status, reason, way) in [
        (401, "no such repository, or a private one", "check the spelling"),
        (404, "no such repository or revision", "check the spelling"),
        (429, "too many requests", "wait a few minutes"),
        (503, "the hub is out of order", "continues where the download stopped"),
        (418, "answered with status 418", ""),
    ] {
        let (address, _) = serving(move |_, _, _| (status, 0, Vec::new()));
        let told = refused(&environment(root.path(), address));
        assert!(told.0.contains(reason) && told.1.contains(way), "{told:?}");
    }
    let (address, _) = serving(|path, _, _| if is_info(path) { info() } else { (404, 0, Vec::new()) });
    let told = refused(&environment(root.path(), address));
    assert!(told.0.starts_with("train.jsonl: no such file on the hub") && told.1.contains("lists its files"), "{told:?}");
}

#[test]
fn without_a_network_the_cache_is_used() {
    let root = tempfile::tempdir().unwrap();
    let nowhere = environment(root.path(), "http://127.0.0.1:9".to_owned());
    let told = refused(&nowhere);
    assert!(told.0.starts_with("can't reach http://127.0.0.1:9: ") && told.1.contains("HTTPS_PROXY"), "{told:?}");
    let (address, _) = serving(|path, _, _| if is_info(path) { info() } else { (200, ROWS.len(), ROWS.to_vec()) });
    let fetched = HubRepository::model_in(&environment(root.path(), address), "owner/name").unwrap().fetch(FILE).unwrap();
    assert_eq!(fs::read(&fetched).unwrap(), ROWS);
    assert_eq!(HubRepository::model_in(&nowhere, "owner/name").unwrap().fetch(FILE).unwrap(), fetched);
}

#[test]
fn a_download_continues_where_it_stopped() {
    let root = tempfile::tempdir().unwrap();
    let fetch = |folder: &str, address: String| {
        HubRepository::model_in(&environment(&root.path().join(folder), address), "owner/name").unwrap().fetch(FILE)
    };
    let starts = |asked: &Asked| -> Vec<u64> { asked.lock().unwrap().iter().filter_map(|(_, range)| *range).collect() };
    // The connection breaks after ten bytes.
    let whole_parts = |path: &str, range: Option<u64>, _: bool| match range {
        _ if is_info(path) => info(),
        Some(0) => (200, 10, ROWS.to_vec()),
        Some(start) => (206, ROWS.len(), ROWS[start as usize..].to_vec()),
        None => (206, 1, ROWS[..1].to_vec()),
    };
    let (address, asked) = serving(whole_parts);
    assert_eq!(fs::read(fetch("broken", address).unwrap()).unwrap(), ROWS);
    assert_eq!(starts(&asked), [0, 10]);

    let part = |folder: &str, bytes: &[u8]| {
        let blobs = root.path().join(folder).join("cache/models--owner--name/blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join("tag.part"), bytes).unwrap();
    };
    // An earlier run was stopped.
    part("stopped", &ROWS[..7]);
    let (address, asked) = serving(whole_parts);
    assert_eq!(fs::read(fetch("stopped", address).unwrap()).unwrap(), ROWS);
    assert_eq!(starts(&asked), [7]);

    // A server without ranges, and parts that are too long or complete.
    let no_ranges = |path: &str, range: Option<u64>, _: bool| match range {
        _ if is_info(path) => info(),
        Some(start) if start >= ROWS.len() as u64 => (416, 0, Vec::new()),
        _ => (200, ROWS.len(), ROWS.to_vec()),
    };
    for (folder, bytes) in [("without", &ROWS[..7]), ("long", &[ROWS, b"more"].concat()), ("complete", ROWS)] {
        part(folder, bytes);
        let (address, _) = serving(no_ranges);
        assert_eq!(fs::read(fetch(folder, address).unwrap()).unwrap(), ROWS, "{folder}");
    }
}
