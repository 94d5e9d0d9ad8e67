//! What was measured, for people and for programs.

use serde_json::{Value, json};

use super::key::TuningKey;
use super::measure::{Measured, Outcome, TunedClass};
use super::repay::of_step;

/// A class with its candidates: their times and rates, the chosen one marked.
pub fn describe(class: &TunedClass) -> String {
    let [m, n, k] = class.extents;
    let often = if class.runs == 1 { "once".to_owned() } else { format!("{} times", class.runs) };
    let mut text = format!("{}: {m} x {n} x {k}, {often} in a step", class.class);
    let width = class.candidates.iter().map(|measured| measured.name.len()).max().unwrap_or(0);
    for (index, measured) in class.candidates.iter().enumerate() {
        let mark = if index == class.chosen { '*' } else { ' ' };
        let Measured { name, outcome } = measured;
        text += &match outcome {
            Outcome::Wrong(reason) => format!("\n{mark} {name:width$}  not right: {reason}"),
            Outcome::Seconds(seconds) => {
                let (milliseconds, rate) = (seconds * 1e3, class.flops() / seconds / 1e12);
                let gain = match class.default_seconds() {
                    Some(default) if index > 0 => format!("  {:+.0} %", 100.0 * (seconds / default - 1.0)),
                    _ => String::new(),
                };
                format!("\n{mark} {name:width$}  {milliseconds:9.3} ms  {rate:7.3} TFLOP/s{gain}")
            }
        };
    }
    text
}

/// What a step gains.
pub fn summary(classes: &[TunedClass]) -> String {
    let [default, chosen] = of_step(classes);
    let count = classes.iter().filter(|class| class.chosen > 0).count();
    let gain = if default > 0.0 { 100.0 * (1.0 - chosen / default) } else { 0.0 };
    format!(
        "the products of a step take {:.2} ms by default and {:.2} ms as chosen, {gain:.0} % less; {count} of {} classes differ from the default",
        default * 1e3,
        chosen * 1e3,
        classes.len()
    )
}

/// All of it as one object.
pub fn to_json(key: &TuningKey, classes: &[TunedClass], seconds: f64) -> Value {
    let candidate = |measured: &Measured, flops: f64| match &measured.outcome {
        Outcome::Seconds(seconds) => json!({
            "name": measured.name, "milliseconds": seconds * 1e3, "tflops": flops / seconds / 1e12,
        }),
        Outcome::Wrong(reason) => json!({ "name": measured.name, "wrong": reason }),
    };
    let of = |class: &TunedClass| {
        let gain = match (class.default_seconds(), class.chosen_seconds()) {
            (Some(default), Some(chosen)) => Some(1.0 - chosen / default),
            _ => None,
        };
        json!({
            "class": class.class,
            "extents": class.extents,
            "runs": class.runs,
            "chosen": class.candidates.get(class.chosen).map(|measured| &measured.name),
            "gain": gain,
            "candidates": class.candidates.iter().map(|measured| candidate(measured, class.flops())).collect::<Vec<_>>(),
        })
    };
    let [default, chosen] = of_step(classes);
    json!({
        "device": key,
        "classes": classes.iter().map(of).collect::<Vec<_>>(),
        "step_default_milliseconds": default * 1e3,
        "step_chosen_milliseconds": chosen * 1e3,
        "seconds": seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::super::measure::measure;
    use super::super::measure::tests::Planted;
    use super::*;

    #[test]
    fn the_table_marks_the_choice_and_names_what_is_wrong() {
        let class = measure(&mut Planted::new(&[("default", Some(2.0)), ("fast", Some(1.0)), ("broken", None)]));
        let text = describe(&class);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "nt [64]x32x16 f32*f32=f32: 64 x 32 x 16, 7 times in a step");
        assert!(lines[1].starts_with("  default") && lines[1].contains("ms") && !lines[1].contains('%'), "{text}");
        assert!(lines[2].starts_with("* fast") && lines[2].ends_with("-50 %"), "{text}");
        assert!(lines[3].contains("broken") && lines[3].contains("not right: 3 of 2048"), "{text}");
        assert!(summary(&[class.clone()]).contains("50 % less; 1 of 1 classes"), "{}", summary(&[class.clone()]));
        let key =
            TuningKey { backend: "b".to_owned(), device: "d".to_owned(), driver: String::new(), program: "0".to_owned() };
        let value = to_json(&key, &[class], 3.0);
        assert_eq!(value["classes"][0]["chosen"], "fast");
        assert!((value["classes"][0]["gain"].as_f64().unwrap() - 0.5).abs() < 0.01);
        assert!(value["classes"][0]["candidates"][2]["wrong"].is_string());
    }
}
