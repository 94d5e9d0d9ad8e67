//! Values for the layers whose names match a pattern.

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

/// A regular expression and the value for the layers that it matches, as in PEFT's `rank_pattern` and `alpha_pattern`.
#[derive(Debug, Clone)]
pub struct Pattern<T> {
    /// The expression as it stands in the file.
    pub pattern: String,
    /// The value for the layers that it matches.
    pub value: T,
    matcher: Matcher,
}

/// The most expressions of a configuration that are not just names, and the bytes that each may take once it is compiled.
const MOST_EXPRESSIONS: usize = 100;
const EXPRESSION_BYTES: usize = 256 << 10;

#[derive(Debug, Clone)]
enum Matcher {
    /// A name, which needs no expression: adapters with one for each layer have thousands. `None` is any character.
    Name(Vec<Option<char>>),
    Expression(Regex),
}

impl Matcher {
    fn new(pattern: &str) -> Result<Self, String> {
        if let Some(name) = Self::name(pattern) {
            return Ok(Self::Name(name));
        }
        RegexBuilder::new(&format!("^(?:.*\\.)?(?:{pattern})$"))
            .size_limit(EXPRESSION_BYTES)
            .build()
            .map(Self::Expression)
            .map_err(|error| format!("`{pattern}` is not a regular expression: {error}"))
    }

    /// The characters of a pattern that is a name; its dots match anything, unless they are escaped.
    fn name(pattern: &str) -> Option<Vec<Option<char>>> {
        let (mut name, mut characters) = (Vec::new(), pattern.chars());
        while let Some(character) = characters.next() {
            name.push(match character {
                '.' => None,
                '\\' => Some(characters.next().filter(|escaped| matches!(escaped, '.' | '-'))?),
                plain if plain.is_ascii_alphanumeric() || matches!(plain, '_' | '-') => Some(plain),
                _ => return None,
            });
        }
        Some(name)
    }

    fn is_match(&self, layer: &str) -> bool {
        match self {
            Self::Expression(regex) => regex.is_match(layer),
            Self::Name(name) => {
                let layer: Vec<char> = layer.chars().collect();
                let Some(start) = layer.len().checked_sub(name.len()) else { return false };
                let (head, tail) = layer.split_at(start);
                let is_same = |(part, character): (&Option<char>, &char)| part.is_none_or(|part| part == *character);
                head.last().is_none_or(|last| *last == '.') && name.iter().zip(tail).all(is_same)
            }
        }
    }
}

impl<T: PartialEq> PartialEq for Pattern<T> {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern && self.value == other.value
    }
}

impl<T> Pattern<T> {
    /// Compiles a pattern, which matches a whole name or the last parts of one.
    ///
    /// # Errors
    /// If it is not a regular expression.
    ///
    /// # Source
    /// `get_pattern_key` of PEFT 0.21.
    pub fn new(pattern: impl Into<String>, value: T) -> Result<Self, String> {
        let pattern = pattern.into();
        let matcher = Matcher::new(&pattern)?;
        Ok(Self { pattern, value, matcher })
    }

    /// The pattern that matches this name only.
    ///
    /// # Errors
    /// If the name is too long for a regular expression.
    pub(crate) fn exactly(name: &str, value: T) -> Result<Self, String> {
        Self::new(regex::escape(name), value)
    }

    /// The same expression with another value.
    pub(crate) fn map<U>(&self, value: impl FnOnce(&T) -> U) -> Pattern<U> {
        Pattern { pattern: self.pattern.clone(), value: value(&self.value), matcher: self.matcher.clone() }
    }
}

/// Whether a target such as `q_proj` or `self_attn.q_proj` names the layer: as in PEFT, by whole parts at the end of its name.
pub(crate) fn is_named(layer: &str, target: &str) -> bool {
    layer == target || layer.strip_suffix(target).is_some_and(|head| head.ends_with('.'))
}

/// The value of the first pattern that matches the layer, or else the default.
pub(crate) fn find<T: Copy>(patterns: &[Pattern<T>], layer: &str, default: T) -> T {
    patterns.iter().find(|pattern| pattern.matcher.is_match(layer)).map_or(default, |pattern| pattern.value)
}

/// The patterns of a JSON object, in its order; `value` converts a value and returns `None` if it can't be used.
pub(crate) fn read<T>(map: &Map<String, Value>, value: impl Fn(&Value) -> Option<T>) -> Result<Vec<Pattern<T>>, String> {
    if map.keys().filter(|pattern| Matcher::name(pattern).is_none()).take(MOST_EXPRESSIONS + 1).count() > MOST_EXPRESSIONS {
        return Err(format!("expected names of layers, and at most {MOST_EXPRESSIONS} regular expressions"));
    }
    map.iter()
        .map(|(pattern, found)| {
            let value = value(found).ok_or_else(|| format!("`{pattern}` has the value {found}, which is not allowed"))?;
            Pattern::new(pattern.as_str(), value)
        })
        .collect()
}

/// A JSON object that [`read`] reads back.
pub(crate) fn write<T: Copy>(patterns: &[Pattern<T>], value: impl Fn(T) -> Value) -> Value {
    Value::Object(patterns.iter().map(|pattern| (pattern.pattern.clone(), value(pattern.value))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_peft() {
        let names = ["q_proj", "layers.1.self_attn.v_proj", "^model.layers.2.*", r".*\.3\.mlp\.(up|down)_proj"];
        let patterns: Vec<Pattern<usize>> =
            names.iter().enumerate().map(|(value, name)| Pattern::new(*name, value).unwrap()).collect();
        for (layer, expected) in [
            ("model.layers.0.self_attn.q_proj", 0),
            ("model.layers.2.self_attn.q_proj", 0),
            ("model.layers.1.self_attn.v_proj", 1),
            ("model.layers.11.self_attn.v_proj", 9),
            ("model.layers.2.self_attn.v_proj", 2),
            ("other.model.layers.2.self_attn.v_proj", 9),
            ("model.layers.3.mlp.up_proj", 3),
            ("model.layers.3.mlp.gate_proj", 9),
            ("model.layers.0.self_attn.qq_proj", 9),
        ] {
            assert_eq!(find(&patterns, layer, 9), expected, "{layer}");
        }
        assert!(Pattern::new("(", 1).unwrap_err().contains("regular expression"));
        // Names are compared as the expressions would be.
        for pattern in ["q_proj", "a.b", "a\\.b", "", "b", ".b", "a-b", "x.a.b"] {
            let expression = Regex::new(&format!("^(?:.*\\.)?(?:{pattern})$")).unwrap();
            assert!(Matcher::name(pattern).is_some());
            for layer in
                ["a.b", "axb", "x.a.b", "xa.b", "b", "a.", "", "self_attn.q_proj", "qq_proj", "a-b", "y.x.a.b", "é.b"]
            {
                let found = Matcher::new(pattern).unwrap().is_match(layer);
                assert_eq!(found, expression.is_match(layer), "{pattern} {layer}");
            }
        }
        let many = |name: &str| (0..1000).map(|number| (format!("{name}{number}"), 1.into())).collect::<Map<_, _>>();
        assert!(read(&many("a."), Value::as_u64).is_ok() && read(&many(".*a"), Value::as_u64).is_err());
        assert!(Pattern::new(r"\w{100}{100}", 1).is_err());
    }
}
