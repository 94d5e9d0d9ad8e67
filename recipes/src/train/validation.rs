//! Where validation rows come from.

use anyhow::Result;
use burnish_engine::with_hint;

use crate::config::TrainConfig;

/// Whether validation rows are taken from the training rows.
pub(super) fn is_split(config: &TrainConfig) -> bool {
    config.val_split.is_nan() || config.val_split.abs() > 0.0
}

/// The number of rows for validation that `val_split` asks for: a share of all below 1, else a number.
pub(super) fn validation_rows(split: f64, rows: usize) -> Result<usize> {
    let is_number = split.is_finite() && split > 0.0;
    let count = if split < 1.0 { (split * rows as f64).round().max(1.0) } else { split };
    let is_whole = count.fract().abs() < f64::EPSILON;
    if is_number && is_whole && count < rows as f64 {
        return Ok(count as usize);
    }
    let wrong = match () {
        () if !is_number => "is not a positive number".to_owned(),
        () if is_whole => format!("leaves none of the {rows} rows for training"),
        () => "is not a whole number".to_owned(),
    };
    Err(with_hint(format!("`val_split` = {split} {wrong}"), "below 1 it is a share of the rows, from 1 on a number of rows"))
}

/// Early stopping and `load_best_model_at_end` need a validation loss.
pub(super) fn check_validation(config: &TrainConfig, has_rows: bool) -> Result<()> {
    let key = if config.early_stopping > 0 { "early_stopping" } else { "load_best_model_at_end" };
    if !config.ends_with_best() || (has_rows && config.steps_per_eval > 0) {
        return Ok(());
    }
    let reason = if has_rows { "`steps_per_eval` is 0" } else { "there are no validation rows" };
    Err(with_hint(
        format!("`{key}` needs a validation loss, but {reason}"),
        format!(
            "set val_split, put validation rows into valid.jsonl beside train.jsonl, set steps_per_eval, or remove {key}"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::train::PreparedRun;

    #[test]
    fn val_split_takes_validation_rows_from_the_training_rows() {
        assert_eq!([0.1, 0.001, 3.0].map(|split| validation_rows(split, 20).unwrap()), [2, 1, 3]);
        for (split, wrong) in
            [(20.0, "leaves none of the 20 rows"), (0.99, "leaves none"), (1.5, "whole"), (-1.0, "positive")]
        {
            assert!(validation_rows(split, 20).unwrap_err().to_string().contains(wrong), "{split}");
        }
        assert!(validation_rows(f64::NAN, 20).is_err());

        let folder = tempfile::tempdir().unwrap();
        let rows: Vec<String> = (0..20).map(|row| format!("{{\"text\": \"row {row}\"}}\n")).collect();
        std::fs::write(folder.path().join("train.jsonl"), rows.concat()).unwrap();
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/quickstart/model");
        let config = TrainConfig {
            model: model.display().to_string(),
            data: folder.path().display().to_string(),
            output_dir: folder.path().join("run").display().to_string(),
            backend: "cpu".to_owned(),
            val_split: 0.25,
            early_stopping: 2,
            ..TrainConfig::default()
        };
        // Dropped here, since it locks the folder.
        let counts = {
            let PreparedRun { train, valid, .. } = PreparedRun::new(config.clone()).unwrap();
            (train.examples().len(), valid.unwrap().examples().len())
        };
        assert_eq!(counts, (15, 5));
        std::fs::write(folder.path().join("valid.jsonl"), "{\"text\": \"one\"}\n").unwrap();
        let error = PreparedRun::new(config).err().unwrap().to_string();
        assert!(error.contains("there are others") && error.ends_with("valid.jsonl"), "{error}");
    }
}
