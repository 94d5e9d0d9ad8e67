//! Operators that minijinja lacks or implements differently: `%` formats strings, and `~` concatenates values as Python's `str`
//! prints them. Both are replaced by function calls. What builds and compares values is surrounded by the functions of `limits`.

use std::ops::Range;

use minijinja::value::{Rest, Tuple, Value, ValueOrKwargs};
use minijinja::{Environment, Error, State};

use super::formats::percent;
use super::syntax::{self, Kind, Token};
use super::{limits, python};

/// The template with these operators replaced by function calls.
///
/// # Errors
/// If a tag is refused by [`limits::check`].
pub(super) fn as_calls(source: &str) -> Result<String, String> {
    let tags = syntax::tags(source);
    limits::check(source, &tags)?;
    let mut rewriter = Rewriter { source, edits: Vec::new() };
    for tag in &tags {
        rewriter.tag(&tag.tokens);
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
    Ok(text)
}

/// Adds the functions that are called.
pub(super) fn add_functions(environment: &mut Environment<'static>) {
    environment.add_function(OPEN_CONCAT.trim_end_matches('('), |state: &State, operands: Rest<Value>| {
        operands.iter().try_for_each(|operand| limits::read(state, operand))?;
        Ok::<_, Error>(operands.iter().map(python::text).collect::<String>())
    });
    environment.add_function(OPEN_PERCENT.trim_end_matches('('), percent);
    environment.add_filter("format", |state: &State, text: Value, arguments: Rest<ValueOrKwargs>| {
        let mut values = arguments.into_values();
        let named = values.pop_if(|last| last.is_kwargs());
        percent(state, text, named.unwrap_or_else(|| Value::from(Tuple::from(values))))
    });
}

/// A part of the source and the text that replaces it.
struct Edit {
    range: Range<usize>,
    text: &'static str,
}

/// What a sequence of tokens is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// The head of a loop, up to its `in`.
    Loop,
    /// `{…}`
    Mapping,
    /// `x[…]`
    Index,
    Other,
}

/// Operands of a sum after which it is counted on the way.
const COUNTED: usize = 16;
/// Filters whose result can have more items than what they are given.
const BUILDING: &[&str] = &["zip", "chain", "sum", "batch", "slice", "groupby", "map", "items", "list"];
/// Filters that compare items.
const SORTING: &[&str] = &["sort", "unique", "min", "max", "groupby", "dictsort"];

const OPEN_BUILT: &str = "burnish_built(";
const OPEN_TUPLE: &str = "burnish_built((";
const OPEN_INDEXED: &str = "burnish_indexed(";
const OPEN_COMPARED: &str = "burnish_compared(";
const OPEN_SEARCHED: &str = "burnish_searched(";
const SORTED: &str = "burnish_sorted|";
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

    /// Surrounds tokens with a call.
    fn surround(&mut self, tokens: &[Token], open: &'static str) {
        if let (Some(first), Some(last)) = (tokens.first(), tokens.last()) {
            self.insert(first.range.start, open);
            self.insert(last.range.end, CLOSE);
        }
    }

    /// Rewrites the tokens of a tag.
    fn tag(&mut self, tokens: &[Token]) {
        let first = tokens.first().map_or("", |token| self.word(token));
        let top = self.top_level(tokens);
        if first == "set"
            && let Some(at) = top.iter().find(|at| self.word(&tokens[**at]) == "=")
            && top.iter().any(|comma| comma > at && self.word(&tokens[*comma]) == ",")
        {
            // `{% set x = a, b %}` builds a tuple.
            self.surround(&tokens[at + 1..], OPEN_TUPLE);
            self.insert(tokens[tokens.len() - 1].range.end, CLOSE);
        }
        self.sequence(tokens, if first == "for" { Inside::Loop } else { Inside::Other });
    }

    /// Rewrites tokens that may contain keywords and operators of lower precedence.
    fn sequence(&mut self, tokens: &[Token], mut inside: Inside) {
        let separators: Vec<usize> =
            self.top_level(tokens).into_iter().filter(|at| self.separates(tokens, *at)).chain([tokens.len()]).collect();
        let (mut start, mut before) = (0, "");
        for at in separators {
            let after = tokens.get(at).map_or("", |token| self.word(token));
            let piece = &tokens[start..at];
            let is_target = matches!(before, "for" | "set") || (inside == Inside::Loop && before == ",");
            if !is_target {
                self.compared(piece, before, after, tokens.get(at + 1), inside);
                self.sum(piece);
            }
            if inside == Inside::Loop && after == "in" {
                inside = Inside::Other;
                before = "";
            } else {
                before = after;
            }
            start = at + 1;
        }
    }

    /// Surrounds an operand of a comparison, and a key, unless it is a constant. One of the operands is enough.
    fn compared(&mut self, piece: &[Token], before: &str, after: &str, next: Option<&Token>, inside: Inside) {
        let is_constant = match piece {
            [] => true,
            [.., last] if piece.len() <= 2 => {
                let signed = piece.len() == 1 || self.word(&piece[0]) == "-";
                signed && (last.kind != Kind::Name && last.kind != Kind::Operator)
                    || matches!(self.word(last), "true" | "false" | "none" | "True" | "False" | "None")
            }
            _ => false,
        };
        if is_constant {
            return;
        }
        let is_searched = after == "in" || (after == "not" && next.is_some_and(|next| self.word(next) == "in"));
        let is_key = inside == Inside::Mapping && after == ":";
        let is_index = inside == Inside::Index && before.is_empty() && after.is_empty();
        if before == "in" {
            self.surround(piece, OPEN_SEARCHED);
        } else if is_key || is_index || is_searched || matches!(before, "==" | "!=" | "<" | ">" | "<=" | ">=") {
            self.surround(piece, OPEN_COMPARED);
        }
    }

    /// Rewrites `a + b - c`. What is added is counted, in long sums on the way too.
    fn sum(&mut self, tokens: &[Token]) {
        let is_operator =
            |at: &usize| *at > 0 && matches!(self.word(&tokens[*at]), "+" | "-") && self.ends_operand(&tokens[*at - 1]);
        let operators: Vec<usize> = self.top_level(tokens).into_iter().filter(is_operator).collect();
        let operands = split(tokens, &operators);
        if operands.iter().any(|operand| operand.is_empty()) {
            return;
        }
        if operators.iter().any(|at| self.word(&tokens[*at]) == "+") {
            self.surround(tokens, OPEN_BUILT);
            for end in (COUNTED..operators.len()).step_by(COUNTED) {
                self.surround(&tokens[..operators[end]], OPEN_BUILT);
            }
        }
        for operand in operands {
            self.chain(operand);
        }
    }

    /// Rewrites `a ~ b ~ c`.
    fn chain(&mut self, tokens: &[Token]) {
        let operators: Vec<usize> = self.top_level(tokens).into_iter().filter(|at| self.word(&tokens[*at]) == "~").collect();
        let operands = split(tokens, &operators);
        if operands.iter().any(|operand| operand.is_empty()) {
            return;
        }
        if !operators.is_empty() {
            self.surround(tokens, OPEN_CONCAT);
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
        if operators.iter().any(|at| self.word(&tokens[*at]) == "*") {
            self.surround(tokens, OPEN_BUILT);
        }
        for (at, right) in operators.iter().zip(&operands[1..]) {
            let numbers = right[0].kind == Kind::Number && tokens[at - 1].kind != Kind::Text;
            if self.word(&tokens[*at]) == "%" && !numbers {
                self.insert(tokens[0].range.start, OPEN_PERCENT);
                self.insert(right[right.len() - 1].range.end, CLOSE);
                self.edits.push(Edit { range: tokens[*at].range.clone(), text: "," });
            }
        }
        for operand in operands {
            self.operand(operand);
        }
    }

    /// Rewrites what stands in the brackets of an operand, and counts lists and mappings.
    fn operand(&mut self, tokens: &[Token]) {
        let name_after = |at: usize, mark: &str, names: &[&str]| {
            self.word(&tokens[at]) == mark && tokens.get(at + 1).is_some_and(|name| names.contains(&self.word(name)))
        };
        // `map` may call one of the filters.
        let maps = |at: usize| {
            let called = tokens.get(at + 3).map_or("", |name| self.word(name).trim_matches(['"', '\'']));
            name_after(at, "|", &["map"]) && SORTING.contains(&called)
        };
        let top = self.top_level(tokens);
        let sorted: Vec<usize> = top.iter().copied().filter(|at| name_after(*at, "|", SORTING) || maps(*at)).collect();
        let builds = |at: &usize| {
            let called = tokens.get(at + 1).is_some_and(|next| self.word(next) == "(");
            name_after(*at, "|", BUILDING) || (called && matches!(self.word(&tokens[*at]), "dict" | "namespace"))
        };
        if top.iter().any(builds) {
            self.surround(tokens, OPEN_BUILT);
        }
        for at in sorted {
            self.insert(tokens[at + 1].range.start, SORTED);
        }
        let mut indexed = Vec::new();
        for at in top.iter().copied() {
            let after = self.after_group(tokens, at);
            if after < at + 2 {
                continue;
            }
            let before = at.checked_sub(1).map(|before| &tokens[before]);
            let is_postfix = before.is_some_and(|before| self.ends_operand(before));
            let group = &tokens[at + 1..after - 1];
            let has_comma = || self.top_level(group).iter().any(|at| self.word(&group[*at]) == ",");
            let inside = match self.word(&tokens[at]) {
                "[" if is_postfix => Inside::Index,
                "{" => Inside::Mapping,
                _ => Inside::Other,
            };
            let is_built = match self.word(&tokens[at]) {
                "[" | "{" => true,
                _ => has_comma(),
            };
            if is_built && !is_postfix {
                self.surround(&tokens[at..after], OPEN_BUILT);
            }
            if inside == Inside::Index && !matches!(group, [Token { kind: Kind::Text, .. }]) {
                indexed.push(at);
            }
            self.sequence(group, inside);
        }
        for at in indexed {
            self.surround(&tokens[self.start_of_postfix(tokens, &top, at)..at], OPEN_INDEXED);
        }
    }

    /// Where the names, attributes and brackets before an index begin.
    fn start_of_postfix(&self, tokens: &[Token], top: &[usize], at: usize) -> usize {
        let mut before = top.iter().take_while(|other| **other < at).copied().collect::<Vec<_>>();
        let mut start = at;
        while let Some(part) = before.pop() {
            start = part;
            let Some(previous) = before.last().copied() else { break };
            let is_group = matches!(self.word(&tokens[part]), "(" | "[");
            if self.word(&tokens[previous]) == "." {
                before.pop();
            } else if !(is_group && self.ends_operand(&tokens[part - 1])) {
                break;
            }
        }
        start
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

    /// Whether a token is a keyword or an operator of lower precedence than a sum. Tests, `is …`, have a higher one.
    fn separates(&self, tokens: &[Token], at: usize) -> bool {
        const WORDS: &[&str] = &["and", "or", "not", "in", "if", "else", "recursive"];
        const STATEMENTS: &[&str] = &["set", "elif", "for", "with", "do", "call", "filter", "include", "macro"];
        let word = self.word(&tokens[at]);
        match tokens[at].kind {
            Kind::Name => {
                let before = at.checked_sub(1).map_or("", |before| self.word(&tokens[before]));
                let negated = before == "not" && at > 1 && self.word(&tokens[at - 2]) == "is";
                let inner = matches!(before, "." | "|" | "is") || negated;
                !inner && (WORDS.contains(&word) || (at == 0 && STATEMENTS.contains(&word)))
            }
            Kind::Operator => matches!(word, "," | ":" | "=" | "==" | "!=" | "<" | ">" | "<=" | ">="),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_replaced_with_the_precedence_of_jinja() {
        for (template, expected) in [
            ("{{ 'a%s' % x }}", "{{ burnish_percent('a%s' , x) }}"),
            ("{{ a ~ b|f(c ~ d) - e }}", "{{ burnish_concat(a , b|f(burnish_concat(c , d))) - e }}"),
            ("{% if i % 2 == 0 %}{{ i % 2 }}", "{% if i % 2 == 0 %}{{ i % 2 }}"),
            ("{%- set x = 'n' ~ -1 -%}", "{%- set x = burnish_concat('n' , -1) -%}"),
            ("{{ x.a ~ b % c % (d) / f }}", "{{ burnish_concat(x.a , burnish_percent(burnish_percent(b , c) , (d)) / f) }}"),
            (
                "{{ 'u' ~ 'v' if m.if ~ m.in else w }}",
                "{{ burnish_concat('u' , 'v') if burnish_concat(m.if , m.in) else w }}",
            ),
            ("{{ a ~ b is defined }}", "{{ burnish_concat(a , b is defined) }}"),
            ("{{ ~ a }} {{ % }}", "{{ ~ a }} {{ % }}"),
        ] {
            assert_eq!(as_calls(template).unwrap(), expected);
        }
    }

    #[test]
    fn what_builds_and_compares_values_is_counted() {
        for (template, expected) in [
            ("{% set x.a = x.a + [y] - 1 %}", "{% set x.a = burnish_built(x.a + burnish_built([y]) - 1) %}"),
            ("{% set x = a * -b ~ c %}", "{% set x = burnish_concat(burnish_built(a * -b) , c) %}"),
            ("{% set a, b = a, (b, c) %}", "{% set a, b = burnish_built((a, burnish_built((b, c)))) %}"),
            ("{% for (a, b) in c if a in d %}", "{% for (a, b) in c if burnish_compared(a) in burnish_searched(d) %}"),
            ("{% for a, b in c|zip(c) %}", "{% for a, b in burnish_built(c|zip(c)) %}"),
            ("{{ x == y and a.b != 'c' }}", "{{ x == burnish_compared(y) and a.b != 'c' }}"),
            ("{{ x == -1 or x is not none }}", "{{ x == -1 or x is not none }}"),
            ("{{ x not in ['a'] }}", "{{ burnish_compared(x) not in burnish_searched(burnish_built(['a'])) }}"),
            (
                "{{ {a: 1, 'b': -c}[d] }}",
                "{{ burnish_built(burnish_indexed({burnish_compared(a): 1, 'b': -c}))[burnish_compared(d)] }}",
            ),
            ("{{ -f(x|sort)[1:]['a'] }}", "{{ -burnish_indexed(f(x|burnish_sorted|sort))[1:]['a'] }}"),
            ("{{ x|map('sort') }}", "{{ burnish_built(x|burnish_sorted|map('sort')) }}"),
            ("{{ x|map(attribute='sort') }}", "{{ burnish_built(x|map(attribute='sort')) }}"),
            ("{{ x is eq a.b[-1].c }}", "{{ x is eq burnish_indexed(a.b)[-1].c }}"),
            ("{{ (a + b)[0] }}", "{{ burnish_indexed((burnish_built(a + b)))[0] }}"),
            ("{% macro f(a, b=[]) %}", "{% macro f(a, b=burnish_built([])) %}"),
        ] {
            assert_eq!(as_calls(template).unwrap(), expected);
        }
        let calls = [OPEN_BUILT, OPEN_COMPARED, OPEN_SEARCHED, OPEN_INDEXED].map(|open| open.trim_end_matches('('));
        assert_eq!(calls, [limits::BUILT, limits::COMPARED, limits::SEARCHED, limits::INDEXED]);
        assert_eq!(SORTED.trim_end_matches('|'), limits::SORTED);
        let long = format!("{{{{ a{} }}}}", " + a".repeat(40));
        assert_eq!(as_calls(&long).unwrap().matches("burnish_built(").count(), 3);
    }
}
