//! Axes: where values lie on them, and their ticks.

use serde::Serialize;

/// What numbers on an axis are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Numbers near 1.
    Plain,
    /// Small numbers, such as learning rates.
    Scientific,
    /// Whole numbers.
    Count,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// A value for the user.
    pub fn shown(self, value: f64) -> String {
        match self {
            _ if !value.is_finite() => "not finite".to_owned(),
            Self::Plain => plain(value),
            Self::Scientific if value.abs() <= 0.0 => "0".to_owned(),
            Self::Scientific => scientific(value),
            Self::Count => count(value),
            Self::Bytes => bytes(value),
        }
    }
}

fn plain(value: f64) -> String {
    let size = value.abs();
    match () {
        () if size <= 0.0 => "0".to_owned(),
        () if !(1e-3..1e6).contains(&size) => scientific(value),
        () if size >= 1000.0 => count(value),
        () => {
            // Four significant digits, without zeros at the end.
            let digits = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
            let text = format!("{value:.digits$}");
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
        }
    }
}

fn scientific(value: f64) -> String {
    let text = format!("{value:.2e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    if exponent == "0" { digits.to_owned() } else { format!("{digits}e{exponent}") }
}

/// A whole number in groups of three digits.
pub fn count(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    let sign = if value < 0.0 && digits != "0" { "-" } else { "" };
    format!("{sign}{}", groups.join(","))
}

fn bytes(value: f64) -> String {
    let mib = value / f64::from(1 << 20);
    match () {
        () if mib >= 1023.5 => format!("{} GiB", plain((mib / 1024.0 * 100.0).round() / 100.0)),
        () if mib >= 10.0 => format!("{mib:.0} MiB"),
        () if value <= 0.0 => "0".to_owned(),
        () => format!("{mib:.1} MiB"),
    }
}

/// A tick of an axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tick {
    /// Its place, from 0 to 100.
    pub at: f64,
    /// Its text.
    pub label: String,
}

/// An axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    /// Whether places are those of logarithms.
    pub is_log: bool,
}

/// A range beyond which an axis is logarithmic.
const WIDE: f64 = 50.0;

impl Scale {
    /// An axis for finite values; `from_zero` begins it at zero.
    pub fn of(values: impl Iterator<Item = f64>, from_zero: bool) -> Option<Self> {
        let (low, high) = values
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            return None;
        }
        if !from_zero && low > 0.0 && high / low > WIDE {
            let pad = (high / low).powf(0.04);
            return Some(Self { low: low / pad, high: high * pad, is_log: true });
        }
        let low = if low > 0.0 && (from_zero || low < 0.3 * high) { 0.0 } else { low };
        let spread = high - low;
        let pad = if spread > 0.0 { 0.06 * spread } else { high.abs().max(1e-9) * 0.1 };
        let below = if low.abs() <= 0.0 { 0.0 } else { pad };
        Some(Self { low: low - below, high: high + pad, is_log: false })
    }

    /// The axis of steps.
    pub fn of_steps(first: usize, last: usize) -> Self {
        Self { low: first as f64, high: (last.max(first + 1)) as f64, is_log: false }
    }

    /// The place of a value, from 0 to 1.
    pub fn at(&self, value: f64) -> f64 {
        if self.is_log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    /// Ticks at round numbers.
    pub fn ticks(&self, most: usize, unit: Unit) -> Vec<Tick> {
        let values = if self.is_log { self.decades(most) } else { self.steps(most, unit) };
        let tick = |value: f64| Tick { at: (self.at(value) * 10_000.0).round() / 100.0, label: unit.shown(value) };
        let mut ticks: Vec<Tick> = values.into_iter().map(tick).collect();
        ticks.dedup_by(|one, other| one.label == other.label);
        ticks
    }

    fn steps(&self, most: usize, unit: Unit) -> Vec<f64> {
        let rough = (self.high - self.low) / (most + 1) as f64;
        // Bytes are round in the unit that the largest is shown in.
        let unit_size = if self.high >= f64::from(1 << 30) { f64::from(1 << 30) } else { f64::from(1 << 20) };
        let base = if unit == Unit::Bytes { unit_size } else { 1.0 };
        let size = 10f64.powf((rough / base).log10().floor()) * base;
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|times| times * size).find(|step| *step >= rough);
        let step = step.unwrap_or(10.0 * size);
        let (first, last) = ((self.low / step).ceil() as i64, (self.high / step).floor() as i64);
        (first..=last).map(|number| number as f64 * step).collect()
    }

    fn decades(&self, most: usize) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let within = |times: &[f64], every: usize| -> Vec<f64> {
            let all =
                (first..=last).step_by(every).flat_map(|power| times.iter().map(move |times| times * 10f64.powi(power)));
            all.filter(|value| (self.low..=self.high).contains(value)).collect()
        };
        let fine = within(&[1.0, 2.0, 5.0], 1);
        if fine.len() <= most + 1 {
            return fine;
        }
        let every =
            (1..=last.abs_diff(first) as usize + 1).find(|every| within(&[1.0], *every).len() <= most + 1).unwrap_or(1);
        within(&[1.0], every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, unit: Unit) -> Vec<String> {
        scale.ticks(4, unit).into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn numbers_are_short_and_exact_enough() {
        assert_eq!(
            [2.6305, 0.0123, 12.0, 0.0, 1234.5, 4e-5, -0.5].map(plain),
            ["2.631", "0.0123", "12", "0", "1,234", "4e-5", "-0.5"]
        );
        assert_eq!([0.0002, 1.5e-7].map(|value| Unit::Scientific.shown(value)), ["2e-4", "1.5e-7"]);
        assert_eq!([1_234_567.0, 12.0, 0.0, -1000.0].map(count), ["1,234,567", "12", "0", "-1,000"]);
        assert_eq!([73.0 * 1_048_576.0, 3.5 * f64::from(1 << 30), 0.0].map(bytes), ["73 MiB", "3.5 GiB", "0"]);
        assert_eq!(Unit::Plain.shown(f64::NAN), "not finite");
    }

    #[test]
    fn axes_hold_their_values_and_have_round_ticks() {
        let scale = Scale::of([2.2, 1.1, f64::NAN].into_iter(), false).unwrap();
        assert!(!scale.is_log && scale.at(1.1) >= 0.0 && scale.at(2.2) <= 1.0);
        assert_eq!(labels(scale, Unit::Plain), ["1.25", "1.5", "1.75", "2", "2.25"]);
        let wide = Scale::of([2.6, 0.0005].into_iter(), false).unwrap();
        assert!(wide.is_log && wide.at(0.0005) > 0.0 && wide.at(2.6) < 1.0);
        assert_eq!(labels(wide, Unit::Plain), ["0.001", "0.01", "0.1", "1"]);
        let bytes = Scale::of([70e6, 80e6].into_iter(), true).unwrap();
        assert_eq!(labels(bytes, Unit::Bytes), ["0", "20 MiB", "40 MiB", "60 MiB", "80 MiB"]);
        let large = Scale::of([3.1e9].into_iter(), true).unwrap();
        assert_eq!(labels(large, Unit::Bytes), ["0", "1 GiB", "2 GiB", "3 GiB"]);
        let constant = Scale::of([3.0, 3.0].into_iter(), false).unwrap();
        assert!(constant.at(3.0) > 0.0 && constant.at(3.0) < 1.0 && !labels(constant, Unit::Plain).is_empty());
        let zero = Scale::of([0.0].into_iter(), true).unwrap();
        assert!(zero.at(0.0).is_finite() && !labels(zero, Unit::Plain).is_empty());
        assert!(Scale::of([f64::NAN].into_iter(), false).is_none());
        assert_eq!(labels(Scale::of_steps(1, 250), Unit::Count), ["50", "100", "150", "200", "250"]);
    }
}
