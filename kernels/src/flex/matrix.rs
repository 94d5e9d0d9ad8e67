//! Strided f32 matrices over slices, and their product.

/// A read-only matrix: element `(r, c)` lies at `offset + r · row_stride + c · column_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub data: &'a [f32],
    pub offset: usize,
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix that fills the slice from its start.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self { data, offset: 0, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Rows and columns swapped, without a copy.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// The rows `start .. start + rows`.
    pub fn narrow_rows(self, start: usize, rows: usize) -> Self {
        assert!(start + rows <= self.rows, "rows {start}+{rows} of {}", self.rows);
        Self { offset: self.offset + start * self.row_stride, rows, ..self }
    }

    fn last(&self) -> usize {
        self.offset + (self.rows.max(1) - 1) * self.row_stride + (self.columns.max(1) - 1) * self.column_stride
    }
}

/// A matrix to write to; rows are `row_stride` apart, columns adjacent.
pub(crate) struct MatrixMut<'a> {
    pub data: &'a mut [f32],
    pub row_stride: usize,
}

/// `destination = factor · left · right`, or `destination += …` with `accumulate`.
///
/// # Panics
/// When a matrix reaches beyond its slice, or the shapes do not fit.
pub(crate) fn multiply(destination: MatrixMut, accumulate: bool, factor: f32, left: Matrix, right: Matrix, parallel: bool) {
    assert_eq!(left.columns, right.rows, "inner dimensions");
    let (rows, columns, inner) = (left.rows, right.columns, left.columns);
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(
        inner > 0 && left.last() < left.data.len() && right.last() < right.data.len(),
        "an operand reaches beyond its slice"
    );
    assert!(
        (rows - 1) * destination.row_stride + columns <= destination.data.len()
            && (rows == 1 || columns <= destination.row_stride),
        "the destination reaches beyond its slice"
    );
    #[cfg(test)]
    FLOPS.set(FLOPS.get() + 2 * (rows * columns * inner) as u64);
    // Below some millions of multiply-adds, threads cost more than they gain.
    let parallelism =
        if parallel && rows * columns * inner > 2 << 20 { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    // SAFETY: the asserts above bound every element that the product reads and writes.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            destination.data.as_mut_ptr(),
            1,
            destination.row_stride as isize,
            accumulate,
            left.data.as_ptr().add(left.offset),
            left.column_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr().add(right.offset),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
std::thread_local! {
    /// The floating-point operations of the products of this thread.
    static FLOPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Computes on one thread, and counts the floating-point operations of its products.
#[cfg(test)]
pub(crate) fn counted<T: Send>(compute: impl FnOnce() -> T + Send) -> (T, u64) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        FLOPS.set(0);
        let result = compute();
        (result, FLOPS.get())
    })
}

/// `left · right` as a new row-major buffer.
pub(crate) fn product(left: Matrix, right: Matrix, factor: f32) -> Vec<f32> {
    let mut output = vec![0.0; left.rows * right.columns];
    let row_stride = right.columns;
    multiply(MatrixMut { data: &mut output, row_stride }, false, factor, left, right, true);
    output
}
