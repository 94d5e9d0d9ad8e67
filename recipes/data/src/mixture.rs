//! Several files, mixed by weight.

use super::batch::order::{MIXTURE, VALIDATION, order};
use super::examples::Examples;
use super::tokenized_file::TokenizedFile;

/// Files, each with the number of times that an epoch has its rows: 2 for twice, 0.5 for half of them.
#[derive(Debug, Clone)]
pub struct Mixture(Vec<(TokenizedFile, f64)>);

impl From<Vec<(TokenizedFile, f64)>> for Mixture {
    fn from(files: Vec<(TokenizedFile, f64)>) -> Self {
        Self(files)
    }
}

impl From<TokenizedFile> for Mixture {
    fn from(file: TokenizedFile) -> Self {
        Self(vec![(file, 1.0)])
    }
}

impl Mixture {
    /// Number of rows that became examples, each counted once.
    pub fn used_rows(&self) -> usize {
        self.0.iter().map(|(file, _)| file.used_rows()).sum()
    }

    /// The examples of an epoch, in the order of the files. A row that is in it twice comes twice in succession. Which rows a fraction of a
    /// weight adds is drawn by the seed, once.
    pub fn examples(self, seed: u64) -> Examples {
        let [train, _] = self.split(0, seed);
        train
    }

    /// The examples of all rows but `count`, by weight, and those of these rows, once each, which are drawn by the seed; both in the order
    /// of the files.
    ///
    /// # Panics
    /// If there are not so many rows.
    pub fn split(self, count: usize, seed: u64) -> [Examples; 2] {
        let rows = self.used_rows();
        assert!(count <= rows, "{count} of {rows} rows");
        if let ([(file, weight)], 0) = (&self.0[..], count)
            && (weight - 1.0).abs() < f64::EPSILON
        {
            return [file.examples.clone(), Vec::new().into()];
        }
        let mut is_drawn = vec![false; rows];
        for row in &order(rows, Some(seed), VALIDATION)[..count] {
            is_drawn[*row] = true;
        }
        let (mut train, mut valid) = (Vec::new(), Vec::new());
        let mut drawn = is_drawn.into_iter();
        for (number, (file, weight)) in self.0.iter().enumerate() {
            let times = times(file.used_rows(), *weight, seed, MIXTURE - number as u64);
            for (((_, range), times), is_drawn) in file.rows().zip(times).zip(drawn.by_ref()) {
                if is_drawn {
                    valid.extend(range.map(|index| (number, index)));
                } else {
                    (0..times).for_each(|_| train.extend(range.clone().map(|index| (number, index))));
                }
            }
        }
        let files: Vec<&Examples> = self.0.iter().map(|(file, _)| &file.examples).collect();
        [train, valid].map(|indices| Examples::select(&files, indices.into_iter()))
    }
}

/// How many times an epoch has each row.
fn times(rows: usize, weight: f64, seed: u64, purpose: u64) -> Vec<usize> {
    let mut times = vec![weight.floor() as usize; rows];
    let more = (weight.fract() * rows as f64).round() as usize;
    if more > 0 {
        order(rows, Some(seed), purpose)[..more].iter().for_each(|row| times[*row] += 1);
    }
    times
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burnish_models::Pretrained;

    use super::*;
    use crate::{BadRows, RowTokenizer, load};

    #[test]
    fn an_epoch_has_the_rows_of_each_file_by_its_weight() {
        let model = Pretrained::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/quickstart/model")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, rows: usize| {
            let path = folder.path().join(name);
            let rows = (0..rows).map(|row| format!("{{\"text\": \"{name} {row}\"}}\n")).collect::<String>();
            std::fs::write(&path, rows).unwrap();
            load(&path, &RowTokenizer::of(&model), BadRows::Stop).unwrap()
        };
        let (a, b) = (file("a.jsonl", 10), file("b.jsonl", 7));
        let texts = |examples: &Examples| -> Vec<String> {
            examples.iter().map(|example| model.tokenizer.decode(&example.input_ids, true).unwrap()).collect()
        };
        let count = |texts: &[String], name: &str| texts.iter().filter(|text| text.starts_with(name)).count();
        let mixed = |weights: [f64; 2]| Mixture::from(vec![(a.clone(), weights[0]), (b.clone(), weights[1])]);
        for (weights, expected) in [([1.0, 1.0], [10, 7]), ([2.5, 0.5], [25, 4]), ([0.25, 3.0], [3, 21])] {
            let found = texts(&mixed(weights).examples(1));
            assert_eq!([count(&found, "a.jsonl"), count(&found, "b.jsonl")], expected, "{weights:?}");
            assert_eq!(found, texts(&mixed(weights).examples(1)));
        }
        assert_ne!(texts(&mixed([0.5, 1.0]).examples(1)), texts(&mixed([0.5, 1.0]).examples(2)));
        // What is validated is not trained on, however often rows come.
        let [train, valid] = mixed([2.0, 1.0]).split(6, 3).map(|part| texts(&part));
        assert_eq!((valid.len(), train.len()), (6, 27 - 2 * count(&valid, "a.jsonl") - count(&valid, "b.jsonl")));
        assert!(valid.iter().all(|text| !train.contains(text)));
        // One file is as it was.
        assert_eq!(texts(&Mixture::from(a.clone()).examples(1)), texts(&a.examples));
    }
}
