//! Measures the candidates of a class of products, and chooses one.

use burnish_engine::guard::guarded;
use burnish_kernels::ProductTrial;

/// Seconds of products that are queued together.
const QUEUED: f64 = 0.01;
/// Most products that are queued together.
const MOST_QUEUED: usize = 64;
/// Rounds in which candidates take turns; the median of each counts.
const ROUNDS: usize = 5;
/// A candidate that takes so many times as long as the best in the first round is not measured again.
const HOPELESS: f64 = 1.5;
/// The share of the default's time that a candidate must save to be chosen: less is noise.
const LEAST_GAIN: f64 = 0.03;

/// What became of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The seconds of one product.
    Seconds(f64),
    /// Why it is never chosen: its results are wrong, or the device failed.
    Wrong(String),
}

/// A candidate and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
}

impl Measured {
    /// The seconds of one product, if its results are right.
    pub fn seconds(&self) -> Option<f64> {
        match self.outcome {
            Outcome::Seconds(seconds) => Some(seconds),
            Outcome::Wrong(_) => None,
        }
    }
}

/// A class of products whose candidates were measured.
#[derive(Debug, Clone, PartialEq)]
pub struct TunedClass {
    /// The class.
    pub class: String,
    /// Rows, columns and terms of the products that were measured.
    pub extents: [usize; 3],
    /// How often a step computes one.
    pub runs: usize,
    /// The candidates, the default first.
    pub candidates: Vec<Measured>,
    /// The chosen one.
    pub chosen: usize,
}

impl TunedClass {
    /// Seconds of a product by default, if the default is right.
    pub fn default_seconds(&self) -> Option<f64> {
        self.candidates.first().and_then(Measured::seconds)
    }

    /// Seconds of a product as chosen.
    pub fn chosen_seconds(&self) -> Option<f64> {
        self.candidates.get(self.chosen).and_then(Measured::seconds)
    }

    /// Float operations of a product.
    pub fn flops(&self) -> f64 {
        2.0 * self.extents.iter().map(|extent| *extent as f64).product::<f64>()
    }
}

/// Checks every candidate of a class, measures those that are right, and chooses the fastest, or the default if that is hardly slower.
pub fn measure(trial: &mut dyn ProductTrial) -> TunedClass {
    let names = trial.candidates().to_vec();
    let mut states: Vec<Result<Vec<f64>, String>> = Vec::new();
    for index in 0..names.len() {
        states.push(tried(|| trial.check(index)).map(|()| Vec::new()));
    }
    // A product that takes long is not repeated to find out how often it could be.
    let first = states.iter().position(Result::is_ok).and_then(|index| tried(|| trial.seconds(index, 1)).ok());
    let mut launches = if first.is_some_and(|seconds| seconds < QUEUED) { 4 } else { 1 };
    for round in 0..=ROUNDS {
        let best = states.iter().flatten().flatten().copied().fold(f64::INFINITY, f64::min);
        for (index, state) in states.iter_mut().enumerate() {
            let Ok(times) = state else { continue };
            // The default is always measured: its time is that to be saved.
            if index > 0 && round > 1 && times.iter().all(|seconds| *seconds > HOPELESS * best) {
                continue;
            }
            match tried(|| trial.seconds(index, launches)) {
                Ok(seconds) => times.push(seconds),
                Err(reason) => *state = Err(reason),
            }
        }
        if round == 0 {
            let shortest = states.iter().flatten().flatten().copied().fold(f64::INFINITY, f64::min);
            launches = (QUEUED / shortest.max(1e-9)).ceil().clamp(1.0, MOST_QUEUED as f64) as usize;
            // These contain too much of the wait for the device.
            states.iter_mut().flatten().for_each(Vec::clear);
        }
    }
    let candidates: Vec<Measured> = names
        .into_iter()
        .zip(states)
        .map(|(name, state)| Measured {
            name,
            outcome: state.map_or_else(Outcome::Wrong, |times| Outcome::Seconds(median(times))),
        })
        .collect();
    let chosen = choice(&candidates);
    TunedClass { class: trial.class().to_owned(), extents: trial.extents(), runs: trial.runs(), candidates, chosen }
}

/// Runs a trial; a panic of the device is a reason too.
fn tried<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    guarded(|| work().map_err(anyhow::Error::msg)).map_err(|error| format!("{error:#}"))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::INFINITY)
}

fn choice(candidates: &[Measured]) -> usize {
    let timed = || candidates.iter().enumerate().filter_map(|(index, measured)| Some((index, measured.seconds()?)));
    let Some((fastest, seconds)) = timed().min_by(|one, other| one.1.total_cmp(&other.1)) else { return 0 };
    match candidates.first().and_then(Measured::seconds) {
        Some(default) if seconds > default * (1.0 - LEAST_GAIN) => 0,
        _ => fastest,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A class with planted times. Candidates without one are wrong.
    pub struct Planted {
        pub candidates: Vec<String>,
        pub times: Vec<Option<f64>>,
        /// Products that were timed, by candidate.
        pub timed: Vec<usize>,
    }

    impl Planted {
        pub fn new(candidates: &[(&str, Option<f64>)]) -> Self {
            let (names, times): (Vec<_>, Vec<_>) = candidates.iter().map(|(name, time)| ((*name).to_owned(), *time)).unzip();
            Self { timed: vec![0; names.len()], candidates: names, times }
        }
    }

    impl ProductTrial for Planted {
        fn class(&self) -> &'static str {
            "nt [64]x32x16 f32*f32=f32"
        }

        fn extents(&self) -> [usize; 3] {
            [64, 32, 16]
        }

        fn runs(&self) -> usize {
            7
        }

        fn candidates(&self) -> &[String] {
            &self.candidates
        }

        fn check(&mut self, candidate: usize) -> Result<(), String> {
            assert!(self.candidates[candidate] != "panics", "no such kernel");
            self.times[candidate].map(|_| ()).ok_or_else(|| "3 of 2048 elements are wrong".to_owned())
        }

        fn seconds(&mut self, candidate: usize, launches: usize) -> Result<f64, String> {
            self.timed[candidate] += launches;
            // The wait for the device.
            Ok(self.times[candidate].unwrap() + 2e-4 / launches as f64)
        }
    }

    fn chosen(candidates: &[(&str, Option<f64>)]) -> TunedClass {
        measure(&mut Planted::new(candidates))
    }

    #[test]
    fn the_fastest_candidate_is_chosen() {
        let found = chosen(&[("default", Some(4e-3)), ("slow", Some(5e-3)), ("fast", Some(2e-3)), ("other", Some(3e-3))]);
        assert_eq!((found.chosen, found.class.as_str(), found.runs), (2, "nt [64]x32x16 f32*f32=f32", 7));
        assert!(found.default_seconds() > found.chosen_seconds());
        assert!((found.flops() - 65_536.0).abs() < 1e-9);
    }

    #[test]
    fn a_gain_within_the_noise_is_none() {
        assert_eq!(chosen(&[("default", Some(4e-3)), ("hardly", Some(3.95e-3))]).chosen, 0);
        assert_eq!(chosen(&[("default", Some(4e-3))]).chosen, 0);
    }

    #[test]
    fn wrong_and_failing_candidates_are_never_chosen_and_named() {
        let found = chosen(&[("default", Some(4e-3)), ("wrong", None), ("panics", Some(1e-3)), ("right", Some(3e-3))]);
        assert_eq!(found.chosen, 3);
        let reason = |index: usize| match &found.candidates[index].outcome {
            Outcome::Wrong(reason) => reason.clone(),
            Outcome::Seconds(_) => String::new(),
        };
        assert_eq!(found.candidates[1].name, "wrong");
        assert!(reason(1).contains("3 of 2048") && reason(2).contains("no such kernel"), "{found:?}");
        // Nor is the default, if it is wrong.
        assert_eq!(chosen(&[("default", None), ("right", Some(1.0))]).chosen, 1);
        assert_eq!(chosen(&[("default", None), ("wrong", None)]).chosen_seconds(), None);
    }

    #[test]
    fn candidates_that_are_much_slower_are_not_measured_to_the_end() {
        let mut planted = Planted::new(&[("default", Some(1e-4)), ("slow", Some(1.0)), ("near", Some(1.1e-4))]);
        let found = measure(&mut planted);
        assert!(planted.timed[1] * 3 < planted.timed[2], "{:?}", planted.timed);
        assert!(found.candidates[1].seconds() > Some(0.9) && found.chosen == 0);
    }
}
