//! Large files: the batch API of Git LFS, with the hub's transfer in parts.

use serde_json::{Value, json};

use super::client::{Client, Content};
use super::commit::{BATCH, Planned, REVISION};
use super::error::HubError;

/// The type of what the batch API takes and gives.
const MEDIA: &str = "application/vnd.git-lfs+json";

/// Sends the large files that the storage does not have, and returns their bytes.
pub(super) fn upload(client: &Client, planned: &[Planned<'_>], say: &mut impl FnMut(&str)) -> Result<u64, HubError> {
    let large: Vec<(&Planned<'_>, &str)> =
        planned.iter().filter_map(|planned| Some((planned, planned.sha256.as_deref()?))).collect();
    let mut sent = 0;
    for batch in large.chunks(BATCH) {
        let answer = instructions(client, batch)?;
        let objects = answer.get("objects").and_then(Value::as_array);
        let objects = objects.ok_or_else(|| client.unexpected(WHAT, "it has no `objects`"))?;
        for (planned, oid) in batch {
            let name = &planned.file.name;
            let object = objects.iter().find(|object| object.get("oid").and_then(Value::as_str) == Some(oid));
            let object = object.ok_or_else(|| client.unexpected(WHAT, format!("it does not have {name}")))?;
            if let Some(error) = object.get("error") {
                let said = error.get("message").and_then(Value::as_str).unwrap_or_default();
                let status = error.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
                let (id, what) = (client.id().to_owned(), format!("upload {name}"));
                return Err(HubError::Status { id, what, status: status.unwrap_or(0), reason: said.to_owned() });
            }
            let Some(action) = object.pointer("/actions/upload") else {
                say(&format!("{name}: the hub has it already"));
                continue;
            };
            say(&format!("{name}: sending {} bytes", planned.file.size));
            send(client, planned, oid, action)?;
            sent += planned.file.size;
            if let Some(verify) = object.pointer("/actions/verify") {
                let body = json!({ "oid": oid, "size": planned.file.size });
                client.post(&format!("verify {name}"), href(client, verify)?, &body)?;
            }
        }
    }
    Ok(sent)
}

const WHAT: &str = "get addresses for large files";

/// Asks where to send files.
fn instructions(client: &Client, batch: &[(&Planned<'_>, &str)]) -> Result<Value, HubError> {
    let objects: Vec<Value> = batch.iter().map(|(planned, oid)| json!({ "oid": oid, "size": planned.file.size })).collect();
    let body = json!({
        "operation": "upload",
        "transfers": ["basic", "multipart"],
        "objects": objects,
        "hash_algo": "sha256",
        "ref": { "name": REVISION },
    });
    let url = client.url(&format!("/{}.git/info/lfs/objects/batch", client.id()));
    client.send(WHAT, &url, Content { kind: MEDIA, accept: Some(MEDIA), bytes: body.to_string().as_bytes() })
}

fn href<'a>(client: &Client, action: &'a Value) -> Result<&'a str, HubError> {
    let href = action.get("href").and_then(Value::as_str);
    href.ok_or_else(|| client.unexpected(WHAT, "an action has no `href`"))
}

/// Sends a file, in parts where the hub says so.
fn send(client: &Client, planned: &Planned<'_>, oid: &str, action: &Value) -> Result<(), HubError> {
    let (size, what) = (planned.file.size, format!("upload {}", planned.file.name));
    let url = href(client, action)?;
    let headers = action.get("header").and_then(Value::as_object);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut file = planned.file.open()?;
    let Some(chunk) = headers.and_then(|headers| headers.get("chunk_size")) else {
        let headers: Vec<(String, String)> =
            headers.into_iter().flatten().map(|(name, value)| (name.clone(), text(value))).collect();
        return client.put(&what, url, &headers, &mut file, (0, size)).map(drop);
    };
    let chunk: u64 = text(chunk)
        .parse()
        .ok()
        .filter(|chunk| *chunk > 0)
        .ok_or_else(|| client.unexpected(WHAT, format!("`chunk_size` is {chunk}")))?;
    let mut addresses: Vec<(u64, String)> =
        headers.into_iter().flatten().filter_map(|(number, address)| Some((number.parse().ok()?, text(address)))).collect();
    addresses.sort_unstable();
    if addresses.len() as u64 != size.div_ceil(chunk) {
        let reason = format!("{} addresses for {size} bytes in parts of {chunk}", addresses.len());
        return Err(client.unexpected(WHAT, reason));
    }
    let mut parts = Vec::new();
    for (at, (_, address)) in addresses.iter().enumerate() {
        let start = at as u64 * chunk;
        let tag = client.put(&what, address, &[], &mut file, (start, chunk.min(size - start)))?;
        if tag.is_empty() {
            return Err(client.unexpected(&what, format!("part {} has no `ETag`", at + 1)));
        }
        parts.push(json!({ "partNumber": at + 1, "etag": tag }));
    }
    let body = json!({ "oid": oid, "parts": parts }).to_string();
    client.send(&what, url, Content { kind: MEDIA, accept: Some(MEDIA), bytes: body.as_bytes() }).map(drop)
}
