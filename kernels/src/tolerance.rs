//! The one table of tolerances, used by every test of the workspace.

use burn::tensor::DType;

/// How far a result may be from its reference.
///
/// A value passes when `|value - reference| <= absolute + relative * |reference|`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Part that scales with the reference.
    pub relative: f64,
    /// Part that does not depend on it.
    pub absolute: f64,
}

impl Tolerance {
    /// The row of the table for a dtype.
    ///
    /// # Panics
    /// For a dtype that is not a float.
    pub fn of(dtype: DType) -> Self {
        match dtype {
            DType::F64 => Self { relative: 1e-10, absolute: 1e-12 },
            DType::F32 => Self { relative: 1e-4, absolute: 5e-5 },
            DType::F16 => Self { relative: 4e-3, absolute: 2e-3 },
            DType::BF16 => Self { relative: 2e-2, absolute: 1e-2 },
            other => panic!("no tolerance for {other:?}: not a float"),
        }
    }

    /// Whether `value` is close enough to `reference`.
    pub fn accepts(&self, value: f64, reference: f64) -> bool {
        (value - reference).abs() <= self.absolute + self.relative * reference.abs()
    }

    /// Compares two slices and names the worst element.
    ///
    /// # Errors
    /// A sentence with the worst index, both of its values, and the number of elements that are off.
    pub fn check(&self, name: &str, values: &[f32], reference: &[f32]) -> Result<(), String> {
        if values.len() != reference.len() {
            return Err(format!("{name}: expected {} values, got {}", reference.len(), values.len()));
        }
        let mut wrong = 0usize;
        let mut worst = (0.0f64, 0usize);
        for (index, (&value, &expected)) in values.iter().zip(reference).enumerate() {
            if !self.accepts(f64::from(value), f64::from(expected)) {
                wrong += 1;
                let distance = (f64::from(value) - f64::from(expected)).abs();
                if distance > worst.0 || distance.is_nan() {
                    worst = (distance, index);
                }
            }
        }
        if wrong == 0 {
            return Ok(());
        }
        let index = worst.1;
        Err(format!(
            "{name}: {wrong} of {} elements off; worst at {index}: got {}, expected {}",
            values.len(),
            values[index],
            reference[index]
        ))
    }
}
