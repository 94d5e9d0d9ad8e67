//! Operators that minijinja lacks or implements differently: `%` formats strings, and `~` concatenates values as Python's `str`
//! prints them. Both are replaced by function calls.

use std::ops::Range;

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Rest, Tuple, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind};

use super::python;
use super::syntax::{self, Kind, Token};

/// The template with these operators replaced by function calls.
pub(super) fn as_calls(source: &str) -> String {
    let mut rewriter = Rewriter { source, edits: Vec::new() };
    for tag in syntax::tags(source) {
        if tag.tokens.iter().any(|token| matches!(rewriter.word(token), "%" | "~")) {
            rewriter.sequence(&tag.tokens);
        }
    }
    rewriter.edits.sort_by_key(|edit| (edit.range.start, edit.text != CLOSE));
    let mut text = String::with_capacity(source.len());
    let mut copied = 0;
    for edit in rewriter.edits {
        text.push_str(&source[copied..edit.range.start]);
        text.push_str(edit.text);
        copied = edit.range.end;
    }
    text.push_str(&source[copied..]);
    text
}

/// Adds the functions that are called.
pub(super) fn add_functions(environment: &mut Environment<'static>) {
    environment.add_function(OPEN_CONCAT.trim_end_matches('('), |operands: Rest<Value>| {
        operands.iter().map(python::text).collect::<String>()
    });
    environment.add_function(OPEN_PERCENT.trim_end_matches('('), percent);
    environment.add_filter("format", |text: Value, arguments: Rest<ValueOrKwargs>| {
        let mut values = arguments.into_values();
        let named = values.pop_if(|last| last.is_kwargs());
        percent(text, named.unwrap_or_else(|| Value::from(Tuple::from(values))))
    });
}

/// A part of the source and the text that replaces it.
struct Edit {
    range: Range<usize>,
    text: &'static str,
}

const OPEN_CONCAT: &str = "burnish_concat(";
const OPEN_PERCENT: &str = "burnish_percent(";
const CLOSE: &str = ")";

struct Rewriter<'a> {
    source: &'a str,
    edits: Vec<Edit>,
}

impl<'a> Rewriter<'a> {
    fn word(&self, token: &Token) -> &'a str {
        &self.source[token.range.clone()]
    }

    fn insert(&mut self, at: usize, text: &'static str) {
        self.edits.push(Edit { range: at..at, text });
    }

    /// Rewrites tokens that may contain keywords and operators of lower precedence.
    fn sequence(&mut self, tokens: &[Token]) {
        let mut start = 0;
        for at in self.top_level(tokens) {
            if self.separates(tokens, at) {
                self.chain(&tokens[start..at]);
                start = at + 1;
            }
        }
        self.chain(&tokens[start..]);
    }

    /// Rewrites `a ~ b ~ c`.
    fn chain(&mut self, tokens: &[Token]) {
        let operators: Vec<usize> = self.top_level(tokens).into_iter().filter(|at| self.word(&tokens[*at]) == "~").collect();
        let operands = split(tokens, &operators);
        if operands.iter().any(|operand| operand.is_empty()) {
            return;
        }
        if !operators.is_empty() {
            self.insert(tokens[0].range.start, OPEN_CONCAT);
            self.insert(tokens[tokens.len() - 1].range.end, CLOSE);
            self.edits.extend(operators.iter().map(|at| Edit { range: tokens[*at].range.clone(), text: "," }));
        }
        for operand in operands {
            self.factors(operand);
        }
    }

    /// Rewrites `a * b % c`: `%` becomes a call if a string can stand before it.
    fn factors(&mut self, tokens: &[Token]) {
        let is_operator = |at: &usize| matches!(self.word(&tokens[*at]), "*" | "/" | "//" | "%");
        let operators: Vec<usize> = self.top_level(tokens).into_iter().filter(is_operator).collect();
        let operands = split(tokens, &operators);
        if operands.iter().any(|operand| operand.is_empty()) {
            return;
        }
        for (at, right) in operators.iter().zip(&operands[1..]) {
            let numbers = right[0].kind == Kind::Number && tokens[at - 1].kind != Kind::Text;
            if self.word(&tokens[*at]) == "%" && !numbers {
                self.insert(tokens[0].range.start, OPEN_PERCENT);
                self.insert(right[right.len() - 1].range.end, CLOSE);
                self.edits.push(Edit { range: tokens[*at].range.clone(), text: "," });
            }
        }
        for at in self.top_level(tokens) {
            let after = self.after_group(tokens, at);
            if after > at + 2 {
                self.sequence(&tokens[at + 1..after - 1]);
            }
        }
    }

    /// The index after the group in brackets that begins at `at`, or the next index if none begins there.
    fn after_group(&self, tokens: &[Token], at: usize) -> usize {
        let mut depth = 0_usize;
        for (index, token) in tokens.iter().enumerate().skip(at) {
            match self.word(token) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return index + 1;
            }
        }
        at + 1
    }

    /// The indices of the tokens outside brackets, with the opening bracket of each group.
    fn top_level(&self, tokens: &[Token]) -> Vec<usize> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            found.push(at);
            at = self.after_group(tokens, at);
        }
        found
    }

    /// Whether a token is a keyword or an operator of lower precedence.
    fn separates(&self, tokens: &[Token], at: usize) -> bool {
        const WORDS: &[&str] = &["and", "or", "not", "in", "is", "if", "else", "recursive"];
        const STATEMENTS: &[&str] = &["set", "elif", "for", "with", "do", "call", "filter", "include", "macro"];
        let word = self.word(&tokens[at]);
        match tokens[at].kind {
            Kind::Name => {
                let attribute = at > 0 && matches!(self.word(&tokens[at - 1]), "." | "|");
                !attribute && (WORDS.contains(&word) || (at == 0 && STATEMENTS.contains(&word)))
            }
            Kind::Operator => match word {
                "," | ":" | "=" | "==" | "!=" | "<" | ">" | "<=" | ">=" => true,
                // Otherwise it is a unary sign.
                "+" | "-" => at > 0 && self.ends_operand(&tokens[at - 1]),
                _ => false,
            },
            Kind::Text | Kind::Number => false,
        }
    }

    fn ends_operand(&self, token: &Token) -> bool {
        match token.kind {
            Kind::Operator => matches!(self.word(token), ")" | "]" | "}"),
            Kind::Name => !matches!(self.word(token), "and" | "or" | "not" | "in" | "is" | "if" | "else"),
            Kind::Text | Kind::Number => true,
        }
    }
}

/// The tokens before, between and after those at the given indices.
fn split<'t>(tokens: &'t [Token], at: &[usize]) -> Vec<&'t [Token]> {
    let starts = std::iter::once(0).chain(at.iter().map(|at| at + 1));
    let ends = at.iter().copied().chain(std::iter::once(tokens.len()));
    starts.zip(ends).map(|(start, end)| &tokens[start..end]).collect()
}

/// `left % right`: the remainder of numbers, or the formatting of a string.
fn percent(left: Value, right: Value) -> Result<Value, Error> {
    let Some(text) = left.as_str() else { return remainder(&left, &right) };
    let mut arguments: Vec<Value> = if right.is_tuple() { right.try_iter()?.collect() } else { vec![right.clone()] };
    let taken = conversions(text);
    if right.kind() != ValueKind::Map {
        if taken.len() != arguments.len() {
            let reason = format!("{text:?}: expected {} values, got {}", taken.len(), arguments.len());
            return Err(Error::new(ErrorKind::InvalidOperation, reason));
        }
        for (argument, conversion) in arguments.iter_mut().zip(&taken) {
            if *conversion == 's' {
                *argument = Value::from(python::text(argument));
            }
        }
    }
    format(FormatStyle::Printf, text, &arguments).map(Value::from)
}

/// The conversions in a format string that take a value, including `*`.
fn conversions(format: &str) -> Vec<char> {
    let mut found = Vec::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            continue;
        }
        for character in characters.by_ref() {
            match character {
                '%' => break,
                '*' => found.push('*'),
                letter if letter.is_ascii_alphabetic() && !matches!(letter, 'h' | 'l' | 'L') => {
                    found.push(letter);
                    break;
                }
                _ => {}
            }
        }
    }
    found
}

/// The remainder, which has the sign of the divisor.
fn remainder(left: &Value, right: &Value) -> Result<Value, Error> {
    let failed = || {
        let reason = format!("{} has no remainder by {}", python::repr(left), python::repr(right));
        Error::new(ErrorKind::InvalidOperation, reason)
    };
    let integer = |value: &Value| {
        (value.kind() == ValueKind::Bool || value.is_integer()).then(|| i128::try_from(value.clone()).ok()).flatten()
    };
    if let (Some(left), Some(right)) = (integer(left), integer(right)) {
        let rest = left.checked_rem(right).ok_or_else(failed)?;
        let other_sign = rest != 0 && (rest < 0) != (right < 0);
        let rest = if other_sign { rest + right } else { rest };
        return Ok(i64::try_from(rest).map_or_else(|_| Value::from(rest), Value::from));
    }
    let float = |value: &Value| {
        matches!(value.kind(), ValueKind::Bool | ValueKind::Number).then(|| f64::try_from(value.clone()).ok()).flatten()
    };
    match (float(left), float(right)) {
        (Some(left), Some(right)) if right != 0.0 => {
            let rest = left % right;
            let other_sign = rest != 0.0 && (rest < 0.0) != (right < 0.0);
            Ok(Value::from(if other_sign { rest + right } else { rest }))
        }
        _ => Err(failed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_replaced_with_the_precedence_of_jinja() {
        for (template, expected) in [
            ("{{ 'a%s' % x }}", "{{ burnish_percent('a%s' , x) }}"),
            ("{{ a ~ b|f(c ~ d) + e }}", "{{ burnish_concat(a , b|f(burnish_concat(c , d))) + e }}"),
            ("{% if i % 2 == 0 %}{{ i % 2 }}", "{% if i % 2 == 0 %}{{ i % 2 }}"),
            ("{%- set x = 'n' ~ -1 -%}", "{%- set x = burnish_concat('n' , -1) -%}"),
            (
                "{{ x[a ~ b] % c % (d, e) * f }}",
                "{{ burnish_percent(burnish_percent(x[burnish_concat(a , b)] , c) , (d, e)) * f }}",
            ),
            (
                "{{ 'u' ~ 'v' if m.if ~ m.in else w }}",
                "{{ burnish_concat('u' , 'v') if burnish_concat(m.if , m.in) else w }}",
            ),
            ("{{ ~ a }} {{ % }}", "{{ ~ a }} {{ % }}"),
        ] {
            assert_eq!(as_calls(template), expected);
        }
    }

    #[test]
    fn remainders_have_the_sign_of_the_divisor() {
        for (left, right, rest) in [(7, 3, 1), (-7, 3, 2), (7, -3, -2), (-6, 3, 0)] {
            assert_eq!(percent(Value::from(left), Value::from(right)).unwrap(), Value::from(rest));
        }
        assert_eq!(percent(Value::from(-7.5), Value::from(2)).unwrap(), Value::from(0.5));
        assert!(percent(Value::from(1), Value::from(0)).is_err());
        assert!(percent(Value::from("%s"), Value::from(Tuple::from(vec![Value::from(1), Value::from(2)]))).is_err());
    }
}
