//! The environment variables of the hub, as `huggingface_hub` 2.4 reads them (`constants.py`, `utils/_auth.py`).

use std::path::PathBuf;

/// The settings of the hub.
#[derive(Clone, PartialEq, Eq)]
pub struct HubEnvironment {
    /// The address of the hub: `HF_ENDPOINT`, without a slash at the end.
    pub endpoint: Option<String>,
    /// The folder of the cache: `HF_HUB_CACHE`, or else `HUGGINGFACE_HUB_CACHE`, or else `hub` in `HF_HOME`, which is
    /// `$XDG_CACHE_HOME/huggingface` or `~/.cache/huggingface` by default.
    pub cache: PathBuf,
    /// Whether only the cache is used: `HF_HUB_OFFLINE`, or else `TRANSFORMERS_OFFLINE`, is `1`, `on`, `yes` or `true` in upper or
    /// lower case.
    pub offline: bool,
    /// The access token: `HF_TOKEN`, or else `HUGGING_FACE_HUB_TOKEN`, or else the contents of the file `HF_TOKEN_PATH`, by default
    /// `token` in `HF_HOME`. `HF_HUB_DISABLE_IMPLICIT_TOKEN` turns it off.
    pub token: Option<String>,
}

impl HubEnvironment {
    /// Reads the environment variables of this process.
    pub fn from_env() -> Self {
        Self::from_lookup(|key| std::env::var(key).ok())
    }

    /// Reads the variables that `lookup` returns.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let set = |key: &str| lookup(key).filter(|value| !value.is_empty());
        let path = |text: String| expand(&text, &lookup);
        let user = || home(&lookup).unwrap_or_default();
        let caches = || set("XDG_CACHE_HOME").map_or_else(|| user().join(".cache"), path);
        let home = set("HF_HOME").map_or_else(|| caches().join("huggingface"), path);
        let cache = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")).map(path);
        let is_true = |key: &str| set(key).is_some_and(|value| is_true(&value));
        let token = || {
            let stored = || {
                let file = set("HF_TOKEN_PATH").map_or_else(|| home.join("token"), path);
                std::fs::read_to_string(file).ok()
            };
            let named = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN"));
            // If the variable has only spaces, the file is read.
            named.as_deref().and_then(clean).or_else(|| stored().as_deref().and_then(clean))
        };
        Self {
            endpoint: set("HF_ENDPOINT").map(|endpoint| endpoint.trim_end_matches('/').to_owned()),
            offline: set("HF_HUB_OFFLINE").map_or_else(|| is_true("TRANSFORMERS_OFFLINE"), |value| self::is_true(&value)),
            token: (!is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN")).then(token).flatten(),
            cache: cache.unwrap_or_else(|| home.join("hub")),
        }
    }
}

impl std::fmt::Debug for HubEnvironment {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Tokens must not appear in logs.
        formatter
            .debug_struct("HubEnvironment")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("offline", &self.offline)
            .field("token", &self.token.as_ref().map(|_| "set"))
            .finish()
    }
}

fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str())
}

fn clean(token: &str) -> Option<String> {
    let token = token.replace(['\r', '\n'], "").trim().to_owned();
    (!token.is_empty()).then_some(token)
}

fn home(lookup: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    lookup("HOME").filter(|home| !home.is_empty()).map(PathBuf::from).or_else(std::env::home_dir)
}

/// Expands `~`, `$NAME` and `${NAME}` in a path, as Python's `expanduser` and `expandvars` do.
fn expand(path: &str, lookup: &impl Fn(&str) -> Option<String>) -> PathBuf {
    let mut text = String::new();
    let mut rest = path;
    if let Some(tail) = path.strip_prefix('~').filter(|tail| tail.is_empty() || tail.starts_with('/'))
        && let Some(home) = home(lookup)
    {
        text.push_str(&home.to_string_lossy());
        rest = tail;
    }
    while let Some(at) = rest.find('$') {
        text.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, tail) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(parts) => parts,
            None => after.split_at(after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len())),
        };
        match lookup(name) {
            Some(value) => text.push_str(&value),
            // An unknown variable is not replaced.
            None => text.push_str(&rest[at..rest.len() - tail.len()]),
        }
        rest = tail;
    }
    text.push_str(rest);
    PathBuf::from(text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> HubEnvironment {
        let find = |key: &str| variables.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned());
        HubEnvironment::from_lookup(|key| find(key).or_else(|| (key == "HOME").then(|| "/home/me".to_owned())))
    }

    #[test]
    fn offline_accepts_the_values_of_huggingface_hub() {
        for value in ["1", "on", "ON", "Yes", "TRUE", "true"] {
            assert!(read(&[("HF_HUB_OFFLINE", value)]).offline, "{value}");
        }
        for value in ["", "0", "False", "no", "off", "2", "y", "disable"] {
            assert!(!read(&[("HF_HUB_OFFLINE", value)]).offline, "{value}");
        }
        assert!(
            read(&[("TRANSFORMERS_OFFLINE", "1")]).offline
                && read(&[("HF_HUB_OFFLINE", ""), ("TRANSFORMERS_OFFLINE", "1")]).offline
        );
        assert!(!read(&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]).offline);
        assert!(!read(&[]).offline);
    }

    #[test]
    fn the_cache_is_that_of_huggingface_hub() {
        for (variables, expected) in [
            (&[][..], "/home/me/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/h/hub"),
            (&[("HF_HOME", "~/h")], "/home/me/h/hub"),
            (&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")], "/c"),
            (&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HOME", "/h")], "/old"),
            (&[("HF_HUB_CACHE", "/c"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/c"),
            (&[("HF_HUB_CACHE", "$BIG/hub"), ("BIG", "/big")], "/big/hub"),
            (&[("HF_HUB_CACHE", "/${BIG}x/$NONE"), ("BIG", "big")], "/bigx/$NONE"),
            (&[("HF_HUB_CACHE", "")], "/home/me/.cache/huggingface/hub"),
        ] {
            assert_eq!(read(variables).cache, Path::new(expected), "{variables:?}");
        }
    }

    #[test]
    fn an_empty_token_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "stored\n").unwrap();
        std::fs::write(folder.path().join("other"), "other").unwrap();
        let (home, other) = (folder.path().display().to_string(), folder.path().join("other").display().to_string());
        let token = |variables: &[(&str, &str)]| read(variables).token;
        assert_eq!(token(&[("HF_TOKEN", "")]), None);
        assert_eq!(token(&[("HF_TOKEN", " \n")]), None);
        assert_eq!(token(&[("HF_TOKEN", "hf_a\n")]), Some("hf_a".into()));
        assert_eq!(token(&[("HF_TOKEN", ""), ("HUGGING_FACE_HUB_TOKEN", "hf_b")]), Some("hf_b".into()));
        assert_eq!(token(&[("HF_TOKEN", ""), ("HF_HOME", &home)]), Some("stored".into()));
        assert_eq!(token(&[("HF_HOME", &home), ("HF_TOKEN_PATH", &other)]), Some("other".into()));
        assert_eq!(token(&[("HF_TOKEN", "hf_a"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        // Another cache does not change where the token is.
        assert_eq!(token(&[("HF_HOME", &home), ("HF_HUB_CACHE", "/c")]), Some("stored".into()));
        assert!(!format!("{:?}", read(&[("HF_TOKEN", "hf_a")])).contains("hf_a"));
    }

    #[test]
    fn the_slash_at_the_end_of_the_endpoint_is_removed() {
        assert_eq!(read(&[("HF_ENDPOINT", "http://mirror/")]).endpoint, Some("http://mirror".into()));
        assert_eq!(read(&[("HF_ENDPOINT", "")]).endpoint, None);
    }
}
