//! Classes of products that are computed in the same way.

use std::fmt;

use burn::tensor::DType;

use super::plan::Extents;
use crate::packed::cube::Code;

/// What the choice of a candidate depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ProductClass {
    pub transposed_a: bool,
    pub transposed_b: bool,
    /// That of tokens is a power of two: rows, or terms where `A` is transposed.
    pub extents: Extents,
    /// Terms of the second pair of operands.
    pub more_k: usize,
    /// Of `A`, a dense `B` and the result.
    pub dtypes: [DType; 3],
    /// How a packed `B` is stored.
    pub code: Option<Code>,
}

impl ProductClass {
    /// The extents of a class, from those of one of its products.
    pub fn round(transposed_a: bool, extents: Extents) -> Extents {
        if transposed_a {
            Extents { k: extents.k.next_power_of_two(), ..extents }
        } else {
            Extents { m: extents.m.next_power_of_two(), ..extents }
        }
    }
}

impl fmt::Display for ProductClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = |transposed| if transposed { 't' } else { 'n' };
        let Extents { m, n, k } = self.extents;
        write!(f, "{}{} ", form(self.transposed_a), form(self.transposed_b))?;
        if self.transposed_a {
            write!(f, "{m}x{n}x[{k}]")?;
        } else {
            write!(f, "[{m}]x{n}x{k}")?;
        }
        if self.more_k > 0 {
            write!(f, "+{}", self.more_k)?;
        }
        let [a, b, out] = self.dtypes.map(|dtype| format!("{dtype:?}").to_lowercase());
        match self.code {
            None => write!(f, " {a}*{b}={out}"),
            Some(Code { low, high, group, scales }) => {
                let scales = format!("{scales:?}").replace([' ', '{', '}'], "").to_lowercase();
                write!(f, " {a}*{}bit/{group}/{scales}={out}", low + high)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed::planes::Scales;

    #[test]
    fn classes_differ_in_their_names() {
        let extents = Extents { m: 2048, n: 8192, k: 512 };
        let dense = ProductClass {
            transposed_a: false,
            transposed_b: true,
            extents,
            more_k: 16,
            dtypes: [DType::F16, DType::F16, DType::F32],
            code: None,
        };
        assert_eq!(dense.to_string(), "nt [2048]x8192x512+16 f16*f16=f32");
        let over_rows = ProductClass { transposed_a: true, transposed_b: false, more_k: 0, ..dense };
        assert_eq!(over_rows.to_string(), "tn 2048x8192x[512] f16*f16=f32");
        let code = Code { low: 4, high: 1, group: 32, scales: Scales::Half { zero: 16 } };
        assert_eq!(
            ProductClass { code: Some(code), ..dense }.to_string(),
            "nt [2048]x8192x512+16 f16*5bit/32/halfzero:16=f32"
        );
        let rounded = ProductClass::round(false, Extents { m: 1025, n: 3, k: 5 });
        assert_eq!([rounded.m, rounded.n, rounded.k], [2048, 3, 5]);
        assert_eq!(ProductClass::round(true, Extents { m: 3, n: 3, k: 512 }).k, 512);
    }
}
