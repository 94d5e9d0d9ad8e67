//! Rows that are already tokenised.

use burnish_engine::IGNORE;
use serde_json::{Map, Value};

use super::{Row, kind, shown};

/// TRL's masks, and an older name: for each token 1 if it is learned, else 0.
const LEARNED: [&str; 3] = ["completion_mask", "assistant_masks", "loss_mask"];

/// Reads a row with `input_ids`.
pub(super) fn tokens(row: &Map<String, Value>) -> Result<Row, String> {
    let ids = integers(row, "input_ids")?.unwrap_or_default();
    if ids.is_empty() {
        return Err("input_ids is empty".to_owned());
    }
    let id = |id: &i64| u32::try_from(*id).map_err(|_| format!("input_ids should contain token ids, got {id}"));
    let mut input_ids = ids.iter().map(id).collect::<Result<Vec<u32>, _>>()?;
    let of_each = |key: &str| match integers(row, key)? {
        Some(list) if list.len() != ids.len() => {
            Err(format!("input_ids and {key} should have the same length, got {} and {}", ids.len(), list.len()))
        }
        list => Ok(list),
    };
    let mask = |key: &str| -> Result<Option<Vec<bool>>, String> {
        let flag = |value: i64| match value {
            0 | 1 => Ok(value == 1),
            _ => Err(format!("{key} should contain only 0 and 1, got {value}")),
        };
        of_each(key)?.map(|list| list.into_iter().map(flag).collect()).transpose()
    };
    let mut labels = of_each("labels")?;
    for key in LEARNED {
        let Some(learned) = mask(key)? else { continue };
        let labels = labels.get_or_insert_with(|| ids.clone());
        labels.iter_mut().zip(learned).filter(|(_, is_learned)| !is_learned).for_each(|(label, _)| *label = IGNORE);
    }
    let mut positions = of_each("position_ids")?;
    if let Some(seen) = mask("attention_mask")? {
        // Remove padding, since batches add their own.
        let Some(start) = seen.iter().position(|seen| *seen) else {
            return Err("attention_mask is 0 everywhere".to_owned());
        };
        let end = seen.iter().rposition(|seen| *seen).map_or(start, |last| last + 1);
        if let Some(hole) = seen[start..end].iter().position(|seen| !seen) {
            let at = start + hole + 1;
            return Err(format!(
                "attention_mask is 0 at token {at}, between other tokens, but only padding at the ends is supported"
            ));
        }
        input_ids = input_ids.drain(start..end).collect();
        for list in [&mut labels, &mut positions].into_iter().flatten() {
            *list = list.drain(start..end).collect();
        }
    }
    let is_packed = positions.is_some_and(|positions| !positions.into_iter().eq(0..input_ids.len() as i64))
        || integers(row, "seq_lengths")?.is_some_and(|lengths| lengths.len() > 1);
    if is_packed {
        return Err(
            "position_ids or seq_lengths pack several examples into the row; give each its own row, and use `packing`"
                .to_owned(),
        );
    }
    Ok(Row::Tokens { input_ids, labels })
}

fn integers(row: &Map<String, Value>, key: &str) -> Result<Option<Vec<i64>>, String> {
    let integer = |item: &Value| item.as_i64().ok_or_else(|| format!("{key} should contain integers, got {}", shown(item)));
    match row.get(key) {
        None => Ok(None),
        Some(Value::Array(items)) => items.iter().map(integer).collect::<Result<_, _>>().map(Some),
        Some(other) => Err(format!("{key} should be a list, got {}", kind(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<(Vec<u32>, Option<Vec<i64>>), String> {
        match Row::from_json(json)? {
            Row::Tokens { input_ids, labels } => Ok((input_ids, labels)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn padding_is_removed() {
        let right = r#"{"input_ids": [5, 6, 0, 0], "attention_mask": [1, 1, 0, 0]}"#;
        assert_eq!(read(right).unwrap(), (vec![5, 6], None));
        let left = r#"{"input_ids": [0, 0, 5, 6], "attention_mask": [0, 0, 1, 1], "labels": [-100, -100, -100, 6],
            "position_ids": [1, 1, 0, 1]}"#;
        assert_eq!(read(left).unwrap(), (vec![5, 6], Some(vec![-100, 6])));
    }

    #[test]
    fn masks_decide_what_is_learned() {
        for key in LEARNED {
            let row = format!(r#"{{"input_ids": [5, 6, 7], "{key}": [0, 0, 1]}}"#);
            assert_eq!(read(&row).unwrap(), (vec![5, 6, 7], Some(vec![-100, -100, 7])), "{key}");
        }
        let both = r#"{"input_ids": [5, 6, 7], "labels": [-100, 8, 7], "assistant_masks": [1, 1, 0], "loss_mask": null}"#;
        assert_eq!(read(both).unwrap().1, Some(vec![-100, 8, -100]));
    }

    #[test]
    fn unsupported_rows_are_refused_with_a_reason() {
        for (rest, words) in [
            ("\"attention_mask\": [1, 0, 1]", "attention_mask is 0 at token 2"),
            ("\"attention_mask\": [0, 0, 0]", "0 everywhere"),
            ("\"attention_mask\": [1, 1]", "input_ids and attention_mask should have the same length, got 3 and 2"),
            ("\"attention_mask\": [1, 1, 2]", "attention_mask should contain only 0 and 1, got 2"),
            ("\"completion_mask\": [1, -100, 1]", "completion_mask should contain only 0 and 1, got -100"),
            ("\"position_ids\": [0, 1, 0]", "several examples"),
            ("\"seq_lengths\": [2, 1]", "several examples"),
            ("\"labels\": [1, NaN, 1]", "labels should contain integers, got NaN"),
            (
                "\"labels\": [1, 123456789012345678901234567890, 1]",
                "labels should contain integers, got 123456789012345678901234567890",
            ),
            ("\"labels\": [[1], 2, 3]", "labels should contain integers, got a list"),
        ] {
            let error = read(&format!("{{\"input_ids\": [1, 2, 3], {rest}}}")).unwrap_err();
            assert!(error.contains(words), "{rest}: {error}");
        }
        let whole =
            r#"{"input_ids": [1, 2, 3], "position_ids": [0, 1, 2], "seq_lengths": [3], "attention_mask": [1, 1, 1]}"#;
        assert_eq!(read(whole).unwrap(), (vec![1, 2, 3], None));
    }
}
