//! What is said of speed and memory is a kept row: every figure of a table names its file, and the number is in it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burnish_bench::machine::slug;
use burnish_bench::plot::{ChartGroup, chart};
use serde_json::Value;

/// Pages with tables of figures, and the picture of the first.
const PAGES: [&str; 2] = ["README.md", "docs/performance.md"];
const PICTURE: &str = "docs/performance.svg";
const INDEX: &str = "recipes/results/README.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A table of a page: its head, and its rows of as many cells.
struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

fn tables(page: &str) -> Vec<Table> {
    let cells = |line: &str| -> Vec<String> {
        line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut tables = Vec::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let begins = line.starts_with('|') && lines.peek().is_some_and(|next| next.starts_with("|--"));
        if begins {
            lines.next();
            let mut rows = Vec::new();
            while let Some(row) = lines.next_if(|row| row.starts_with('|')) {
                rows.push(cells(row));
            }
            tables.push(Table { head: cells(line), rows });
        }
    }
    tables
}

/// The targets of the links in a text.
fn links(text: &str) -> Vec<String> {
    text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// The fields of a row that a column shows, and what they are divided by.
fn fields(head: &str) -> &'static [(&'static str, f64)] {
    const KIB: f64 = 1024.0;
    const MIB: f64 = KIB * KIB;
    const GIB: f64 = KIB * MIB;
    match head {
        _ if head.contains("tok/s") => &[("tokens_per_second", 1.0)],
        _ if head.contains("GiB") => &[
            ("bytes", GIB),
            ("live_bytes", GIB),
            ("pool_bytes", GIB),
            ("burn_bytes", GIB),
            ("peak_mib", KIB),
            ("pool_mib", KIB),
        ],
        _ if head.contains("MiB") => &[("bytes", MIB), ("burn_bytes", MIB), ("peak_mib", 1.0), ("pool_mib", 1.0)],
        _ if head.contains("TFLOP/s") => &[("tflops", 1.0)],
        _ if head.contains("× burn") => &[("speedup", 1.0)],
        _ if head.contains("% of a copy of as many bytes") => &[("equal_copy_share", 0.01)],
        _ if head.contains("% of a large copy") => &[("copy_share", 0.01)],
        _ if head.contains("launches") => &[("launches", 1.0)],
        _ if head.contains("seconds") => &[("first_ms", 1000.0), ("first_s", 1.0), ("second_s", 1.0)],
        _ if head == "ms" || head.ends_with(", ms") => &[("ms", 1.0)],
        _ => &[],
    }
}

/// The numbers of a document under a name.
fn numbers(value: &Value, name: &str, found: &mut Vec<f64>) {
    match value {
        Value::Object(entries) => {
            for (key, entry) in entries {
                if key == name {
                    found.extend(entry.as_f64());
                }
                numbers(entry, name, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| numbers(item, name, found)),
        _ => {}
    }
}

/// The number that a cell shows, and its decimals; none where it is text.
fn shown(cell: &str) -> Option<(f64, i32)> {
    let plain = cell.replace(['*', ',', ' '], "");
    let decimals = plain.split_once('.').map_or(0, |(_, decimals)| decimals.len() as i32);
    Some((plain.parse().ok()?, decimals))
}

fn has_number(row: &Value, head: &str, (number, decimals): (f64, i32)) -> bool {
    let unit = 10f64.powi(decimals);
    let rounded = |value: f64| (value * unit).round() as i64;
    fields(head).iter().any(|(name, divisor)| {
        let mut found = Vec::new();
        numbers(row, name, &mut found);
        found.iter().any(|value| rounded(value / divisor) == rounded(number))
    })
}

#[test]
fn every_figure_is_in_the_row_that_it_names() {
    let mut checked = 0;
    for page in PAGES {
        let folder = root().join(page).parent().unwrap().to_owned();
        for Table { head, rows } in tables(&read(page)) {
            for row in rows {
                assert_eq!(row.len(), head.len(), "{page}: {row:?}");
                let figures = || head.iter().zip(&row).filter(|(head, _)| !fields(head).is_empty());
                if figures().count() == 0 {
                    continue;
                }
                let files: Vec<Value> = links(row.last().unwrap())
                    .iter()
                    .map(|link| serde_json::from_str(&std::fs::read_to_string(folder.join(link)).expect(link)).unwrap())
                    .collect();
                for (head, cell) in figures() {
                    let Some(number) = shown(cell) else {
                        assert!(!cell.contains(|c: char| c.is_ascii_digit()), "{page}: `{cell}` is no number of {head}");
                        continue;
                    };
                    assert!(files.iter().any(|file| has_number(file, head, number)), "{page}: {cell} {head} of {row:?}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 60, "only {checked} figures were found");
}

#[test]
fn the_index_lists_exactly_the_rows_and_every_row_is_cited() {
    let folder = root().join("recipes/results");
    let names: BTreeSet<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name != "README.md")
        .collect();
    let [index]: [Table; 1] = tables(&read(INDEX)).try_into().ok().expect("one table");
    let listed: Vec<(String, &Vec<String>)> = index.rows.iter().map(|row| (links(&row[0]).concat(), row)).collect();
    assert_eq!(names, listed.iter().map(|(name, _)| name.clone()).collect());
    assert_eq!(names.len(), listed.len(), "a row is listed twice");
    let cited: String = PAGES.map(read).concat();
    for (name, row) in listed {
        let file: Value = serde_json::from_str(&std::fs::read_to_string(folder.join(&name)).unwrap()).unwrap();
        let stem = name.strip_suffix(".json").unwrap();
        assert!(stem.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c)), "{name}");
        assert!(stem.starts_with(file["date"].as_str().unwrap()), "{name}: its date is {}", file["date"]);
        if file["machine"].is_object() {
            let gpu = file["machine"]["gpus"][0].as_str().and_then(|gpu| gpu.split(',').next());
            let machine = slug(gpu.or(file["machine"]["cpu"].as_str()).unwrap());
            let numbered = stem.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-');
            assert!(stem.ends_with(&machine) || numbered.ends_with(&machine), "{name}: its machine is {machine}");
        }
        let command = file["command"].as_str().unwrap();
        assert_eq!(row[1].trim_matches('`'), command, "{name}");
        assert!(cited.contains(&format!("results/{name})")), "{name} is cited nowhere");
    }
}

/// `BLESS=1 cargo test -p burnish-bench --test results` draws it again.
#[test]
fn the_picture_shows_the_table_of_the_front_page() {
    let table =
        tables(&read(PAGES[0])).into_iter().find(|table| table.head.iter().any(|head| head.contains("tok/s"))).unwrap();
    let mut groups: Vec<ChartGroup> = Vec::new();
    let mut place = String::new();
    for row in &table.rows {
        if !row[0].is_empty() {
            place.clone_from(&row[0]);
        }
        for (column, heading) in table.head.iter().enumerate().filter(|(_, head)| !fields(head).is_empty()) {
            let Some((value, _)) = shown(&row[column]) else { continue };
            let heading = format!("{place}: {heading}");
            let label = row[1].replace('`', "");
            match groups.iter_mut().find(|group| group.heading == heading) {
                Some(group) => group.bars.push((label, value)),
                None => groups.push(ChartGroup { heading, bars: vec![(label, value)] }),
            }
        }
    }
    let picture = chart(&groups, |label| !label.starts_with("Burnish"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(root().join(PICTURE), &picture).unwrap();
    }
    assert_eq!(read(PICTURE), picture, "draw it again with BLESS=1");
}
