//! Jinja as transformers sets it up, on minijinja.

use minijinja::value::{Kwargs, Rest, Value, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, escape_formatter, syntax::SyntaxConfig};

use super::arguments::Arguments;
use super::{generation, limits, methods, operators, python, tojson};

/// The limit of instructions of a rendering, so that nested loops end and values don't grow without end: minijinja counts 64 bytes as one,
/// and `limits` what else takes long. Conversations get more by their length.
pub(super) const FUEL: u64 = 500_000;
/// The global variable with the fixed time. Templates can't use this name.
pub(super) const NOW: &str = "now, fixed";

/// An environment without templates.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, state, value| {
        if python::is_special(value) {
            limits::read(state, value)?;
            Ok(out.write_str(&python::text(value))?)
        } else {
            escape_formatter(out, state, value)
        }
    });
    environment.add_function("raise_exception", |message: String| {
        Err::<Value, _>(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", strftime_now);
    environment.add_function("cycler", minijinja_contrib::globals::cycler);
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    // In Jinja, strings and mappings are sequences, and None is not.
    environment.add_test("sequence", python::is_iterable);
    environment.add_test("iterable", python::is_iterable);
    add_filters(&mut environment);
    generation::add_filters(&mut environment);
    operators::add_functions(&mut environment);
    limits::add_functions(&mut environment);
    Ok(environment)
}

/// Filters of Jinja that minijinja lacks or implements differently.
fn add_filters(environment: &mut Environment<'static>) {
    environment.add_filter("tojson", tojson::tojson);
    environment.add_filter(
        "string",
        |state: &State, value: &Value| {
            if value.is_safe() { Ok(value.clone()) } else { text(state, value).map(Value::from) }
        },
    );
    environment.add_filter("trim", |state: &State, value: &Value, characters: Option<&str>| {
        Ok::<_, Error>(python::strip(&text(state, value)?, characters).to_owned())
    });
    environment.add_filter("join", join);
    environment.add_filter("e", escape);
    environment.add_filter("escape", escape);
    environment.add_filter("forceescape", |state: &State, value: &Value| {
        Ok::<_, Error>(Value::from_safe_string(escaped(&text(state, value)?)))
    });
    environment.add_filter("wordcount", |state: &State, value: &Value| {
        let text = text(state, value)?;
        let words = text.split(|character: char| !character.is_alphanumeric() && character != '_');
        Ok::<_, Error>(words.filter(|word| !word.is_empty()).count())
    });
    environment.add_filter("center", |state: &mut State, value: &Value, width: Option<i64>| {
        let text = text(state, value)?;
        methods::call(state, &text.into(), "center", &[Value::from(width.unwrap_or(80))])
    });
    environment.add_filter("truncate", truncate);
}

/// `str(value)`, which is counted.
fn text(state: &State, value: &Value) -> Result<String, Error> {
    limits::read(state, value)?;
    Ok(python::text(value))
}

fn escape(state: &State, value: &Value) -> Result<Value, Error> {
    if value.is_safe() { Ok(value.clone()) } else { Ok(Value::from_safe_string(escaped(&text(state, value)?))) }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// What an item counts as that is joined, in bytes.
const JOINED: usize = 64;

fn join(state: &State, value: &Value, options: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let options = Arguments::new(options.into_values())?;
    let separator = options.get(0, "d")?.map(|separator| python::text(&separator)).unwrap_or_default();
    let attribute = options.get(1, "attribute")?;
    options.end(2)?;
    let mut joined = String::new();
    for (index, item) in value.try_iter()?.enumerate() {
        limits::take_bytes(state, separator.len().max(JOINED))?;
        if index > 0 {
            joined.push_str(&separator);
        }
        let item = match &attribute {
            Some(attribute) => item.get_item(attribute)?,
            None => item,
        };
        joined.push_str(&text(state, &item)?);
    }
    Ok(joined)
}

/// Jinja's `truncate`. A text that is too long by at most `leeway` is not truncated.
fn truncate(state: &State, value: &Value, options: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let options = Arguments::new(options.into_values())?;
    let text = text(state, value)?;
    let length = options.get(0, "length")?.map_or(Ok(255), usize::try_from)?;
    let kill_words = options.get(1, "killwords")?.is_some_and(|kill| kill.is_true());
    let end = options.get(2, "end")?.map_or_else(|| "...".to_owned(), |end| python::text(&end));
    let leeway = options.get(3, "leeway")?.map_or(Ok(5), usize::try_from)?;
    options.end(4)?;
    let kept = length.checked_sub(end.chars().count()).ok_or_else(|| {
        Error::new(ErrorKind::InvalidOperation, format!("truncate: expected at least the length of {end:?}, got {length}"))
    })?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let mut start: String = text.chars().take(kept).collect();
    if let Some(space) = start.rfind(' ').filter(|_| !kill_words) {
        start.truncate(space);
    }
    Ok(start + &end)
}

/// The current time in UTC, or that of [`ChatTemplate::fix_now`](super::ChatTemplate::fix_now).
fn strftime_now(state: &State, format: String) -> Result<String, Error> {
    let fixed = state.lookup(NOW).filter(|now| !now.is_undefined());
    let now = fixed.unwrap_or_else(minijinja_contrib::globals::now);
    let options = Kwargs::from_iter([("format", Value::from(format))]);
    minijinja_contrib::filters::datetimeformat(state, now, options)
}

/// The message of an error, with its line.
pub(super) fn describe(error: &Error) -> String {
    let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    if error.kind() == ErrorKind::OutOfFuel {
        return format!("the template does not end, or builds too much: it takes more than {FUEL} instructions{line}");
    }
    match error.detail() {
        // The argument of `raise_exception` is a whole message.
        Some(detail) if error.kind() == ErrorKind::InvalidOperation => format!("{detail}{line}"),
        Some(detail) => format!("{}: {detail}{line}", error.kind()),
        None => format!("{}{line}", error.kind()),
    }
}
