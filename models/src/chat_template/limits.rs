//! Limits of what templates may do, which are programs that come with a model.
//!
//! minijinja counts instructions and the bytes of texts as fuel, but neither what stands in lists that contain each other (forty times
//! `x = x + x` is a list of a trillion items) nor the comparison of values, nor what the methods of Python search.
//! `operators` inserts the functions of this file where templates can build or compare such values.

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

use super::syntax::{Kind, Tag, Token};

/// Returns a value that a template has built, and counts what is in it.
pub(super) const BUILT: &str = "burnish_built";
/// Returns a value that is compared or looked up, and counts what a comparison may read.
pub(super) const COMPARED: &str = "burnish_compared";
/// As [`COMPARED`], for the right operand of `in`: mappings find their keys without comparing all.
pub(super) const SEARCHED: &str = "burnish_searched";
/// Returns a value one of whose parts is taken by its position, which are counted from the start in a text.
pub(super) const INDEXED: &str = "burnish_indexed";
/// As [`COMPARED`], for the values that a filter sorts.
pub(super) const SORTED: &str = "burnish_sorted";

/// What one unit of fuel pays for: bytes, as in minijinja.
const BYTES: u64 = 64;
/// What each value counts as, in bytes.
const VALUE: u64 = 64;
/// Values that are nested deeper are refused, since comparing and freeing them could exhaust the stack.
const DEEPEST: usize = 128;

/// Operators of one tag: what compiles them calls itself for each.
const OPERATORS: usize = 1000;
/// Brackets inside each other.
const BRACKETS: usize = 50;
/// `elif` branches of a template.
const BRANCHES: usize = 500;

/// Refuses tags that would exhaust the stack when they are compiled.
///
/// # Errors
/// What is wrong, with its line.
pub(super) fn check(source: &str, tags: &[Tag]) -> Result<(), String> {
    let mut branches = 0;
    for tag in tags {
        let word = |token: &Token| &source[token.range.clone()];
        let (mut depth, mut operators) = (0_usize, 0);
        let at = || {
            let start = tag.tokens.first().map_or(0, |token| token.range.start);
            source[..start].matches('\n').count() + 1
        };
        branches += usize::from(tag.tokens.first().is_some_and(|first| word(first) == "elif"));
        for (index, token) in tag.tokens.iter().enumerate() {
            match (token.kind, word(token)) {
                (Kind::Operator, "(" | "[" | "{") => depth += 1,
                (Kind::Operator, ")" | "]" | "}") => depth = depth.saturating_sub(1),
                (Kind::Operator, "," | ":" | "=") => {}
                (Kind::Operator, _) | (Kind::Name, "and" | "or" | "not" | "in" | "is" | "if" | "else") => operators += 1,
                _ => {}
            }
            // Calls of calls, and indices of indices.
            let before = index.checked_sub(1).map_or("", |before| word(&tag.tokens[before]));
            operators += usize::from(matches!(before, ")" | "]" | "}") && matches!(word(token), "(" | "["));
            if depth > BRACKETS {
                return Err(format!("more than {BRACKETS} brackets inside each other (line {})", at()));
            }
            if operators > OPERATORS {
                return Err(format!("a tag with more than {OPERATORS} operators (line {})", at()));
            }
        }
        if branches > BRANCHES {
            return Err(format!("more than {BRANCHES} `elif` branches (line {})", at()));
        }
    }
    Ok(())
}

/// Whether a value contains others.
fn is_container(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map)
}

/// Subtracts what stands in a value from `left`; `None` if there is more. Texts count where they are read.
fn walk(value: &Value, texts: bool, left: u64, depth: usize) -> Result<Option<u64>, Error> {
    let own = value.as_str().filter(|_| texts).map_or(0, |text| text.len() as u64);
    let Some(mut left) = left.checked_sub(VALUE + own) else { return Ok(None) };
    if !is_container(value) {
        return Ok(Some(left));
    }
    if depth > DEEPEST {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("values are nested deeper than {DEEPEST}")));
    }
    let is_map = value.kind() == ValueKind::Map;
    for item in value.try_iter()? {
        let Some(rest) = walk(&item, texts, left, depth + 1)? else { return Ok(None) };
        left = rest;
        if is_map {
            let Some(rest) = walk(&value.get_item(&item)?, texts, left, depth + 1)? else { return Ok(None) };
            left = rest;
        }
    }
    Ok(Some(left))
}

/// The bytes that the fuel that is left pays for.
pub(super) fn most_bytes(state: &State) -> u64 {
    state.fuel_levels().map_or(u64::MAX, |(_, left)| left.saturating_mul(BYTES))
}

/// Takes fuel for bytes that are read or written.
///
/// # Errors
/// If there is not enough.
pub(super) fn take_bytes(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes as u64 / BYTES)
}

fn count(state: &State, value: &Value, texts: bool, times: u64) -> Result<(), Error> {
    let most = most_bytes(state) / times.max(1);
    let left = walk(value, texts, most, 0)?;
    state.consume_fuel(left.map_or(u64::MAX, |left| (most - left) / BYTES * times))
}

/// Counts a value that a template has built.
///
/// # Errors
/// If it is too large, or nested too deep.
pub(super) fn built(state: &State, value: Value) -> Result<Value, Error> {
    if is_container(&value) {
        count(state, &value, false, 1)?;
    }
    Ok(value)
}

/// Counts a value all of which is read: to compare it, or to print it.
///
/// # Errors
/// As [`built`].
pub(super) fn read(state: &State, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => take_bytes(state, text.len()),
        None if is_container(value) => count(state, value, true, 1),
        None => Ok(()),
    }
}

/// Adds the functions and the filter, and tests that compare.
pub(super) fn add_functions(environment: &mut Environment<'static>) {
    environment.add_function(BUILT, built);
    environment.add_function(COMPARED, |state: &State, value: Value| read(state, &value).map(|()| value));
    environment.add_function(SEARCHED, |state: &State, value: Value| {
        if value.kind() != ValueKind::Map {
            read(state, &value)?;
        }
        Ok::<_, Error>(value)
    });
    environment.add_function(INDEXED, |state: &State, value: Value| {
        take_bytes(state, value.as_str().map_or(0, str::len)).map(|()| value)
    });
    environment.add_filter(SORTED, |state: &State, value: Value| {
        if is_container(&value) {
            let length = value.len().unwrap_or(1 << 20);
            count(state, &value, true, u64::from(usize::BITS - length.leading_zeros()))?;
        }
        Ok::<_, Error>(value)
    });
    type Test = fn(&Value, &Value) -> bool;
    let tests: [(&[&str], Test); 6] = [
        (&["eq", "equalto", "=="], |left, right| left == right),
        (&["ne", "!="], |left, right| left != right),
        (&["lt", "lessthan", "<"], |left, right| left < right),
        (&["le", "<="], |left, right| left <= right),
        (&["gt", "greaterthan", ">"], |left, right| left > right),
        (&["ge", ">="], |left, right| left >= right),
    ];
    for (names, test) in tests {
        for name in names {
            environment.add_test(*name, move |state: &State, left: &Value, right: &Value| {
                read(state, right).map(|()| test(left, right))
            });
        }
    }
    environment
        .add_test("lower", |state: &State, text: &Value| read(state, text).map(|()| minijinja::tests::is_lower(text)));
    environment
        .add_test("upper", |state: &State, text: &Value| read(state, text).map(|()| minijinja::tests::is_upper(text)));
    environment.add_test("in", |state: &State, left: &Value, right: &Value| {
        read(state, left)?;
        read(state, right)?;
        minijinja::tests::is_in(state, left, right)
    });
}
