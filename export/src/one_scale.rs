//! One factor on the updates of all layers, for formats that have no more than one.

use std::collections::BTreeMap;

use burnish_lora::HostLayer;

/// Factors nearer to each other than this are the same: those of rsLoRA are rounded.
const TOLERANCE: f64 = 1e-9;

/// The value that most layers have.
pub(crate) fn most_common(values: impl Iterator<Item = f64>) -> f64 {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    let mut order = Vec::new();
    for value in values {
        let same = order.iter().copied().find(|other| is_same(*other, value)).unwrap_or(value);
        let count = counts.entry(same.to_bits()).or_default();
        if *count == 0 {
            order.push(same);
        }
        *count += 1;
    }
    let most = counts.values().copied().max();
    order.into_iter().find(|value| counts.get(&value.to_bits()).copied() == most).unwrap_or_default()
}

/// `B` of a layer whose update is multiplied by `scale` in the file; changed only if the layer has another factor.
pub(crate) fn lora_b(layer: &HostLayer, scale: f64) -> Vec<f32> {
    if is_same(layer.scale, scale) {
        return layer.lora_b.clone();
    }
    let factor = layer.scale / scale;
    layer.lora_b.iter().map(|value| (f64::from(*value) * factor) as f32).collect()
}

/// Whether two factors are equal but for rounding.
pub(crate) fn is_same(one: f64, other: f64) -> bool {
    (one - other).abs() <= TOLERANCE * one.abs().max(other.abs())
}

/// A note on the layers whose B was multiplied; `None` if no layer's was.
pub(crate) fn note(format: &str, changed: usize) -> Option<String> {
    (changed > 0).then(|| {
        format!(
            "{format} has one scale for all layers; that of {changed} layers differs (alpha_pattern), so their B is scaled"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_of_most_layers_is_kept_and_the_others_go_into_b() {
        let two = 2.0f64.sqrt() * 2.0f64.sqrt();
        assert_eq!(most_common([8.0, 2.0, two, 8.0, two].into_iter()).to_bits(), 2.0f64.to_bits());
        assert!(most_common([].into_iter()).abs() < f64::EPSILON);
        let layer = |scale| HostLayer { scale, rank: 1, lora_a: vec![1.0], lora_b: vec![0.1, -3.0], magnitude: None };
        assert_eq!(lora_b(&layer(two), 2.0), [0.1, -3.0]);
        assert_eq!(lora_b(&layer(1.0), 2.0), [0.05, -1.5]);
        assert_eq!(lora_b(&layer(0.0), 2.0), [0.0, 0.0]);
        assert!(note("f", 0).is_none() && note("f", 3).is_some_and(|note| note.contains("3 layers")));
    }
}
