//! Every storage type of ggml against the values that the gguf package decodes (`make_quants.py`).
#![allow(clippy::unwrap_used)]

use burnish_models::gguf::GgmlType;
use safetensors::SafeTensors;

const TYPES: [(&str, GgmlType); 13] = [
    ("Q4_0", GgmlType::Q4_0),
    ("Q4_1", GgmlType::Q4_1),
    ("Q5_0", GgmlType::Q5_0),
    ("Q5_1", GgmlType::Q5_1),
    ("Q8_0", GgmlType::Q8_0),
    ("Q2_K", GgmlType::Q2K),
    ("Q3_K", GgmlType::Q3K),
    ("Q4_K", GgmlType::Q4K),
    ("Q5_K", GgmlType::Q5K),
    ("Q6_K", GgmlType::Q6K),
    ("IQ4_NL", GgmlType::IQ4NL),
    ("IQ4_XS", GgmlType::IQ4XS),
    ("MXFP4", GgmlType::MXFP4),
];

#[test]
fn blocks_are_decoded_as_by_the_gguf_package() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/quants.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (name, kind) in TYPES {
        let blocks = file.tensor(&format!("{name}.bytes")).unwrap();
        let expected = file.tensor(&format!("{name}.values")).unwrap();
        let expected: Vec<f32> =
            expected.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(blocks.shape()[1], kind.block_bytes(), "{name}");
        let found = kind.dequantize(blocks.data());
        assert_eq!(found.len(), expected.len(), "{name}");
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found.to_bits(), expected.to_bits(), "{name}[{at}]: expected {expected}, got {found}");
        }
    }
}
