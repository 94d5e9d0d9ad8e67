use burnish_models::loader::normal;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;

fn random(rows: usize, columns: usize, seed: u64) -> Matrix {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    Matrix::new(rows, columns, (0..rows * columns).map(|_| normal(&mut random)).collect())
}

/// Some rows and columns of the singular value decomposition that numpy would find: `Uᵀ diag(values) V`, and each factor apart.
fn known(rows: usize, columns: usize, values: &[f64]) -> (Matrix, Matrix, Matrix) {
    let mut generator = ChaCha8Rng::seed_from_u64(1);
    let left = qr::orthonormalize(random(values.len(), rows, 2), &mut generator);
    let right = qr::orthonormalize(random(values.len(), columns, 3), &mut generator);
    let mut scaled = right.clone();
    for (index, value) in values.iter().enumerate() {
        scaled.row_mut(index).iter_mut().for_each(|element| *element *= value);
    }
    (left.transposed().times(&scaled), left, right)
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Vectors are known up to their sign.
fn check_vectors(found: &Matrix, expected: &Matrix, count: usize, within: f64) {
    for index in 0..count {
        let (found, expected) = (found.row(index), expected.row(index));
        let negated: Vec<f64> = found.iter().map(|value| -value).collect();
        let error = furthest(found, expected).min(furthest(&negated, expected));
        assert!(error <= within, "vector {index} is off by {error}");
    }
}

#[test]
fn products_are_those_of_the_definition() {
    let (a, b) = (random(5, 7, 1), random(7, 3, 2));
    let product = a.times(&b);
    for row in 0..5 {
        for column in 0..3 {
            let expected: f64 = (0..7).map(|inner| a.row(row)[inner] * b.row(inner)[column]).sum();
            assert!((product.row(row)[column] - expected).abs() < 1e-12);
        }
    }
    assert!(furthest(&a.times_transposed(&b.transposed()).values, &product.values) < 1e-12);
}

#[test]
fn the_largest_singular_vectors_are_found_to_rounding() {
    // A falling spectrum, a flat one with gaps of one in a thousand, and one over fourteen orders of magnitude.
    let falling: Vec<f64> = (0..40).map(|index| 0.8f64.powi(index)).collect();
    let flat: Vec<f64> = (0..40).map(|index| 1.0 - 1e-3 * f64::from(index)).collect();
    let steep: Vec<f64> = (0..14).map(|index| 10f64.powi(-index)).collect();
    for (name, values, count, within) in [("falling", falling, 8, 1e-9), ("flat", flat, 4, 1e-6), ("steep", steep, 4, 1e-8)]
    {
        for [rows, columns] in [[96, 60], [60, 96], [64, 64]] {
            let (weight, left, right) = known(rows, columns, &values);
            let found = largest(&weight, count, 7);
            assert!(furthest(&found.values, &values[..count]) < 1e-12, "{name}: {:?}", found.values);
            check_vectors(&found.left, &left, count, within);
            check_vectors(&found.right, &right, count, within);
        }
    }
}

#[test]
fn all_singular_vectors_of_a_small_matrix_give_it_back() {
    let weight = random(12, 9, 5);
    let Singular { values, left, mut right } = largest(&weight, 9, 0);
    for (index, value) in values.iter().enumerate() {
        right.row_mut(index).iter_mut().for_each(|element| *element *= value);
    }
    assert!(furthest(&left.transposed().times(&right).values, &weight.values) < 1e-12);
}

#[test]
fn a_matrix_of_lower_rank_has_singular_values_of_zero() {
    let (weight, ..) = known(30, 20, &[2.0, 1.0]);
    let found = largest(&weight, 4, 3);
    assert!(furthest(&found.values, &[2.0, 1.0, 0.0, 0.0]) < 1e-7, "{:?}", found.values);
    let nothing = largest(&Matrix::new(6, 5, vec![0.0; 30]), 2, 3);
    assert_eq!(nothing.values, [0.0, 0.0]);
}

#[test]
fn more_iterations_approximate_better() {
    let values: Vec<f64> = (0..30).map(|index| 0.9f64.powi(index)).collect();
    let (weight, left, _) = known(50, 40, &values);
    let error = |iterations| {
        let found = approximate(&weight, 4, iterations, 11);
        let along = found.left.times_transposed(&left.clone().top(4));
        // How much of the found subspace lies outside of the true one.
        (4.0 - along.values.iter().map(|value| value * value).sum::<f64>()).abs()
    };
    let (few, many) = (error(1), error(40));
    assert!(few > 1e-3 && many < 1e-6, "{few} {many}");
}

#[test]
fn first_columns_have_the_signs_of_lapack() {
    // `torch.linalg.qr` of [[1, 2], [3, 4], [5, 6]].
    let weight = Matrix::new(3, 2, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let [q, r] = first_columns(&weight, 2);
    let expected_q = [-0.169_030_85, -0.507_092_55, -0.845_154_25, 0.897_085_23, 0.276_026_22, -0.345_032_78];
    let expected_r = [-5.916_079_78, -7.437_357_44, 0.0, 0.828_078_67];
    assert!(furthest(&q.values, &expected_q) < 1e-7, "{q:?}");
    assert!(furthest(&r.values, &expected_r) < 1e-7, "{r:?}");
}
