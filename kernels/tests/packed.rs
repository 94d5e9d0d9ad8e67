//! Packed weights against those of bitsandbytes, MLX and ggml, to the bit (`make_quantized.py`).
#![allow(clippy::unwrap_used)]

use burnish_kernels::packed::codebook::{SIGNED, UNSIGNED};
use burnish_kernels::packed::nf4::{Absmax, DoubleAbsmax};
use burnish_kernels::packed::planes::Scales;
use burnish_kernels::packed::{Affine, Element, Floats, GgmlType, GgufBlocks, Nf4, PackError, Packed};
use half::{bf16, f16};
use safetensors::SafeTensors;

mod numbers;
use numbers::numbers;

/// What the script wrote.
struct Golden(Vec<u8>);

impl Golden {
    fn read() -> Self {
        Self(std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/quantized.safetensors")).unwrap())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}")).data().to_vec()
    }

    fn words(&self, name: &str) -> Vec<u32> {
        self.bytes(name).as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.words(name).into_iter().map(f32::from_bits).collect()
    }

    fn f16(&self, name: &str) -> Floats {
        Floats::F16(self.bytes(name).as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes)).collect())
    }

    fn bf16(&self, name: &str) -> Floats {
        Floats::BF16(self.bytes(name).as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes)).collect())
    }
}

/// Equality to the bit.
fn same(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.to_bits(), expected.to_bits(), "{what}[{at}]: {found:e} is not {expected:e}");
    }
}

fn nf4<T: Element>(golden: &Golden, key: &str, values: &[T], dims: [usize; 2]) {
    let single = Nf4::quantize(key, values, dims, false).unwrap();
    assert_eq!(single.codes(), golden.bytes(&format!("{key}.codes")), "{key}");
    let Absmax::Single(absmax) = single.absmax() else { panic!("{key}") };
    same(key, absmax, &golden.f32(&format!("{key}.absmax")));

    let offset = golden.f32(&format!("{key}.nested_offset"))[0];
    let double = DoubleAbsmax::quantize(absmax, Some(offset));
    assert_eq!(double.codes, golden.bytes(&format!("{key}.nested_codes")), "{key}");
    same(key, &double.scales, &golden.f32(&format!("{key}.nested_absmax")));
    let own = Nf4::quantize(key, values, dims, true).unwrap();
    let Absmax::Double(own) = own.absmax() else { panic!("{key}") };
    assert!((own.offset - offset).abs() <= 1e-6 * offset.abs(), "{key}: {} is not {offset}", own.offset);

    let ends = |values: Vec<f32>, name: &str| {
        let expected = golden.f32(&format!("{key}.{name}"));
        let (first, last) = expected.split_at(200);
        same(&format!("{key}.{name}"), &values[..200], first);
        same(&format!("{key}.{name}"), &values[values.len() - 200..], last);
    };
    ends(Packed::Nf4(single.clone()).dequantize(), "values");
    let nested = Nf4::new(key, dims, 64, single.codes().to_vec(), Absmax::Double(double)).unwrap();
    ends(Packed::Nf4(nested).dequantize(), "nested_values");
}

#[test]
fn nf4_is_that_of_bitsandbytes() {
    let golden = Golden::read();
    for (name, dims) in [("odd", [7, 33]), ("small", [9, 128]), ("large", [130, 128])] {
        let values = numbers(1, dims[0] * dims[1]);
        nf4(&golden, &format!("nf4.{name}.f32"), &values, dims);
        if name != "large" {
            let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
            nf4(&golden, &format!("nf4.{name}.f16"), &halves, dims);
            let halves: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
            nf4(&golden, &format!("nf4.{name}.bf16"), &halves, dims);
        }
    }
}

#[test]
fn dynamic_maps_are_those_of_bitsandbytes_and_every_value_is_its_own_code() {
    let golden = Golden::read();
    for (name, map) in [("signed", &*SIGNED), ("unsigned", &*UNSIGNED)] {
        same(name, map.values(), &golden.f32(&format!("dynamic.{name}")));
        for (code, value) in map.values().iter().enumerate() {
            assert_eq!(usize::from(map.nearest(*value)), code, "{name}");
        }
        for (code, bound) in map.bounds().iter().enumerate() {
            assert_eq!(usize::from(map.nearest(*bound)), code, "{name}: half-way, the lower one");
            assert_eq!(usize::from(map.nearest(bound.next_up())), code + 1, "{name}");
        }
    }
}

fn affine<T: Element>(golden: &Golden, key: &str, values: &[T], dtype: &str, [bits, group]: [usize; 2]) {
    let dims = [5, 128];
    let found = Affine::quantize(key, values, dims, bits, group).unwrap();
    let floats = |name: &str| match dtype {
        "f32" => Floats::F32(golden.f32(&format!("{key}.{name}"))),
        "f16" => golden.f16(&format!("{key}.{name}")),
        _ => golden.bf16(&format!("{key}.{name}")),
    };
    let [scales, biases, expected] = ["scales", "biases", "values"].map(floats);
    let words = golden.words(&format!("{key}.words"));
    assert_eq!(found.words(), words, "{key}");
    assert_eq!((found.scales(), found.biases()), (&scales, &biases), "{key}");
    assert_eq!(found.dequantize_rounded(), expected, "{key}");
    let packed = Packed::Affine(Affine::new(key, dims, [bits, group], words, scales.clone(), biases.clone()).unwrap());
    for (at, value) in packed.dequantize().into_iter().enumerate() {
        let q = (found.words()[at * bits / 32] >> (at * bits % 32)) & ((1 << bits) - 1);
        same(&format!("{key}[{at}]"), &[value], &[scales.get(at / group) * q as f32 + biases.get(at / group)]);
    }
}

#[test]
fn affine_is_that_of_mlx() {
    let golden = Golden::read();
    let values = numbers(2, 5 * 128);
    let f16s: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
    let bf16s: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
    for bits in [4, 8] {
        for group in [32, 64, 128] {
            let key = |dtype: &str| format!("int{bits}.{group}.{dtype}");
            affine(&golden, &key("f32"), &values, "f32", [bits, group]);
            affine(&golden, &key("f16"), &f16s, "f16", [bits, group]);
            affine(&golden, &key("bf16"), &bf16s, "bf16", [bits, group]);
        }
    }
}

#[test]
fn gguf_blocks_are_those_of_ggml() {
    let (golden, dims) = (Golden::read(), [10, 512]);
    let values = numbers(3, dims[0] * dims[1]);
    let importance: Vec<f32> = numbers(5, dims[1]).into_iter().map(|x| x * x).collect();
    // The only type that is read and not written.
    for kind in GgmlType::ALL.into_iter().filter(|kind| kind.is_packed() && *kind != GgmlType::MXFP4) {
        let name = kind.name();
        let expect = |found: &[u8], expected: &[u8]| {
            assert_eq!(found.len(), expected.len(), "{name}");
            let size = kind.block_bytes();
            for (block, (found, expected)) in found.chunks(size).zip(expected.chunks(size)).enumerate() {
                assert_eq!(found, expected, "{name}: block {block}");
            }
        };
        let weighted = kind.quantize_weighted(name, &values[..4 * dims[1]], [4, dims[1]], Some(&importance)).unwrap();
        expect(&weighted, &golden.bytes(&format!("{name}.weighted")));
        let expected = golden.bytes(&format!("{name}.blocks"));
        expect(GgufBlocks::quantize(name, &values, dims, kind).unwrap().bytes(), &expected);
        let packed = Packed::Gguf(GgufBlocks::new(name, dims, kind, expected).unwrap());
        same(name, &packed.dequantize()[..3 * dims[1]], &golden.f32(&format!("{name}.values")));
    }
}

#[test]
fn any_rows_are_those_of_the_whole() {
    let dims = [37, 96];
    let values = numbers(9, dims[0] * dims[1]);
    let mut all = vec![
        Packed::Nf4(Nf4::quantize("w", &values, dims, true).unwrap()),
        Packed::Affine(Affine::quantize("w", &values, dims, 4, 32).unwrap()),
        Packed::Affine(Affine::quantize("w", &values, dims, 8, 32).unwrap()),
        Packed::Gguf(GgufBlocks::quantize("w", &values, dims, GgmlType::Q5_1).unwrap()),
    ];
    // Rows of an odd length begin within a byte.
    let odd = [3 * dims[0], dims[1] / 3 - 1];
    all.push(Packed::Nf4(Nf4::quantize("w", &values[..odd[0] * odd[1]], odd, false).unwrap()));
    for packed in all {
        let [rows, columns] = packed.dims();
        let whole = packed.dequantize();
        let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        for (found, expected) in whole.iter().zip(&values) {
            assert!((found - expected).abs() < 0.2 * largest, "{}: {expected} came back as {found}", packed.name());
        }
        for (first, count) in [(0, 1), (1, 1), (5, 7), (rows - 1, 1), (3, 0)] {
            let mut found = vec![0.0; count * columns];
            packed.rows_into(first, &mut found);
            same(packed.name(), &found, &whole[first * columns..(first + count) * columns]);
        }
    }
}

/// A matrix in every format that devices hold.
fn every_format(dims: [usize; 2]) -> Vec<Packed> {
    use GgmlType::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    let values = numbers(9, dims[0] * dims[1]);
    let f16s: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
    let bf16s: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
    let mut all: Vec<Packed> =
        [false, true].map(|double| Packed::Nf4(Nf4::quantize("w", &values, dims, double).unwrap())).into();
    for bits in [4, 8] {
        all.push(Packed::Affine(Affine::quantize("w", &values, dims, bits, 32).unwrap()));
        all.push(Packed::Affine(Affine::quantize("w", &f16s, dims, bits, 64).unwrap()));
        all.push(Packed::Affine(Affine::quantize("w", &bf16s, dims, bits, 128).unwrap()));
    }
    let blocks = |kind| Packed::Gguf(GgufBlocks::quantize("w", &values, dims, kind).unwrap());
    all.extend([Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K].map(blocks));
    all
}

#[test]
fn planes_hold_the_same_weights_in_the_same_bytes() {
    // Odd rows: halves, bytes and bits of scales end within a word.
    let dims = [7, 768];
    for packed in every_format(dims) {
        let name = packed.name();
        let (planes, words) = packed.to_planes("w").unwrap();
        assert_eq!((planes.dims, planes.words()), (dims, words.len()), "{name}");
        let spare = 4 * words.len() - packed.bytes();
        // The values of the codes of double quantisation are kept beside them.
        let spare = if planes.scales == Scales::DoubleTable { spare - 4 * SIGNED.values().len() } else { spare };
        assert!(spare < 8, "{name}: {spare} bytes more than the blocks");
        let expected = packed.dequantize();
        same(name, &planes.dequantize(&words), &expected);
        let mut rows = vec![0.0; 2 * dims[1]];
        planes.rows_into(&words, 3, &mut rows);
        same(name, &rows, &expected[3 * dims[1]..5 * dims[1]]);
        if planes.has_dot() {
            let x = numbers(8, dims[1]);
            let (sums, mut scales) = (planes.group_sums(&x), Vec::new());
            for (number, row) in expected.chunks(dims[1]).enumerate() {
                let found = planes.row_dot(&words, number, &x, &sums, &mut scales);
                let products = row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                let (expected, size) = products.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                assert!((f64::from(found) - expected).abs() <= 1e-5 * size, "{name}, row {number}: {found}, {expected}");
            }
        }
    }
    let odd = Packed::Nf4(Nf4::quantize("w", &numbers(1, 3 * 33), [3, 33], false).unwrap());
    assert_eq!(odd.to_planes("w").unwrap_err().to_string(), "`w` has rows of 33, which groups of 64 do not divide");
    let kept = Packed::Gguf(GgufBlocks::new("w", [1, 256], GgmlType::Q3K, vec![0; 110]).unwrap());
    assert!(kept.to_planes("w").unwrap_err().to_string().starts_with("`w` is Q3_K, which no kernel reads"));
}

#[test]
fn what_cannot_be_packed_is_named() {
    let error = |found: Result<Packed, PackError>| found.unwrap_err().to_string();
    let values = numbers(5, 6 * 48);
    let found = Affine::quantize("q_proj.weight", &values, [6, 48], 4, 64).map(Packed::Affine);
    assert_eq!(error(found), "`q_proj.weight` has rows of 48, which groups of 64 do not divide");
    let found = GgufBlocks::quantize("q_proj.weight", &values, [6, 48], GgmlType::Q4_0).map(Packed::Gguf);
    assert_eq!(error(found), "`q_proj.weight` has rows of 48, which groups of 32 do not divide");
    let found = Affine::quantize("w", &values, [6, 48], 3, 16).map(Packed::Affine);
    assert_eq!(error(found), "`w`: a width in bits of 3 is none of 4, 8");
    let found = GgufBlocks::quantize("w", &values, [9, 32], GgmlType::BF16).map(Packed::Gguf);
    assert_eq!(error(found), "`w`: BF16 can be read but not written");
    let weighted = |importance: &[f32]| GgmlType::Q4_0.quantize_weighted("w", &values, [9, 32], Some(importance));
    let text = weighted(&[1.0; 31]).unwrap_err().to_string();
    assert_eq!(text, "`w`: expected 32 elements of the importance, got 31");
    for (value, text) in [(-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let mut importance = [1.0; 32];
        importance[7] = value;
        let found = weighted(&importance).unwrap_err().to_string();
        assert_eq!(found, format!("`w` has the importance {text} at column 7: expected a finite number, 0 or more"));
    }

    let mut bad = numbers(5, 128);
    bad[77] = f32::NAN;
    for found in [
        Nf4::quantize("w", &bad, [2, 64], true).map(Packed::Nf4),
        Affine::quantize("w", &bad, [2, 64], 8, 32).map(Packed::Affine),
        GgufBlocks::quantize("w", &bad, [2, 64], GgmlType::Q8_0).map(Packed::Gguf),
    ] {
        assert_eq!(error(found), "`w` has NaN at element 77: only finite weights can be quantised");
    }
    bad[77] = 1e9;
    let found = GgufBlocks::quantize("w", &bad, [2, 64], GgmlType::Q4_1).map(Packed::Gguf);
    assert_eq!(error(found), "`w` has weights too large for Q4_1, whose scales are f16");
}

#[test]
fn what_a_file_lacks_is_named() {
    let error = |found: Result<Packed, PackError>| found.unwrap_err().to_string();
    let nf4 = |codes: usize, absmax| Nf4::new("w", [4, 64], 64, vec![0; codes], absmax).map(Packed::Nf4);
    assert_eq!(error(nf4(127, Absmax::Single(vec![1.0; 4]))), "`w`: expected 128 elements of the packed weight, got 127");
    assert_eq!(error(nf4(128, Absmax::Single(vec![1.0; 3]))), "`w`: expected 4 elements of `absmax`, got 3");
    assert_eq!(error(nf4(128, Absmax::Single(vec![1.0, f32::NAN, 0.0, 0.0]))), "`w`: NaN in `absmax` is not finite");
    let double = |scales, offset| Absmax::Double(DoubleAbsmax { codes: vec![0; 4], scales, offset });
    assert_eq!(error(nf4(128, double(vec![], 0.0))), "`w`: expected 1 elements of `nested_absmax`, got 0");
    assert_eq!(error(nf4(128, double(vec![1.0], f32::INFINITY))), "`w`: inf in `nested_offset` is not finite");
    let found = Nf4::new("w", [4, 64], 48, vec![0; 128], Absmax::Single(vec![1.0; 6])).map(Packed::Nf4);
    assert!(error(found).starts_with("`w`: a block size of 48 is none of 32, 64"));

    let affine = |words, scales, biases| Affine::new("w", [2, 64], [4, 32], words, scales, biases).map(Packed::Affine);
    let floats = |count| Floats::F32(vec![0.5; count]);
    assert!(affine(vec![0; 16], floats(4), floats(4)).is_ok());
    assert_eq!(error(affine(vec![0; 15], floats(4), floats(4))), "`w`: expected 16 elements of `weight`, got 15");
    assert_eq!(error(affine(vec![0; 16], floats(0), floats(4))), "`w`: expected 4 elements of `scales`, got 0");
    assert_eq!(error(affine(vec![0; 16], floats(4), floats(5))), "`w`: expected 4 elements of `biases`, got 5");

    let blocks = |bytes| GgufBlocks::new("w", [2, 64], GgmlType::Q8_0, bytes).map(Packed::Gguf);
    assert!(blocks(vec![0; 136]).is_ok());
    assert_eq!(error(blocks(vec![0; 135])), "`w`: expected 136 elements of the packed weight, got 135");
    let mut bytes = vec![0; 136];
    bytes[34..36].copy_from_slice(&f16::INFINITY.to_le_bytes());
    assert_eq!(error(blocks(bytes)), "`w`: inf in the packed weight is not finite");
}
