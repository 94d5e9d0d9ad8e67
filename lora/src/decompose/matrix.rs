//! Matrices in f64 on the host.

/// A row-major matrix.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Matrix {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) values: Vec<f64>,
}

impl Matrix {
    /// # Panics
    /// If the number of values is not `rows · columns`.
    pub(crate) fn new(rows: usize, columns: usize, values: Vec<f64>) -> Self {
        assert_eq!(values.len(), rows * columns, "a matrix of {rows} x {columns}");
        Self { rows, columns, values }
    }

    pub(crate) fn of_f32(rows: usize, columns: usize, values: &[f32]) -> Self {
        Self::new(rows, columns, values.iter().map(|value| f64::from(*value)).collect())
    }

    pub(crate) fn to_f32(&self) -> Vec<f32> {
        self.values.iter().map(|value| *value as f32).collect()
    }

    pub(crate) fn row(&self, index: usize) -> &[f64] {
        &self.values[index * self.columns..(index + 1) * self.columns]
    }

    pub(crate) fn row_mut(&mut self, index: usize) -> &mut [f64] {
        &mut self.values[index * self.columns..(index + 1) * self.columns]
    }

    /// The first rows.
    pub(crate) fn top(mut self, rows: usize) -> Self {
        self.values.truncate(rows * self.columns);
        Self { rows, ..self }
    }

    pub(crate) fn transposed(&self) -> Self {
        let mut values = Vec::with_capacity(self.values.len());
        for column in 0..self.columns {
            values.extend((0..self.rows).map(|row| self.values[row * self.columns + column]));
        }
        Self::new(self.columns, self.rows, values)
    }

    /// `self · other`.
    pub(crate) fn times(&self, other: &Self) -> Self {
        self.product(other, [other.columns as isize, 1], [other.rows, other.columns])
    }

    /// `self · otherᵀ`.
    pub(crate) fn times_transposed(&self, other: &Self) -> Self {
        self.product(other, [1, other.columns as isize], [other.columns, other.rows])
    }

    /// `self` times a matrix of the shape `[inner, columns]` that lies in `other` with these strides of rows and columns.
    fn product(&self, other: &Self, [row_stride, column_stride]: [isize; 2], [inner, columns]: [usize; 2]) -> Self {
        assert_eq!(self.columns, inner, "a product of {} x {} and {inner} x {columns}", self.rows, self.columns);
        let mut values = vec![0.0; self.rows * columns];
        if values.is_empty() || inner == 0 {
            return Self::new(self.rows, columns, values);
        }
        // SAFETY: `new` made both operands as long as their shapes, which these strides stay within, and `values` has
        // `rows · columns` elements.
        unsafe {
            gemm::gemm(
                self.rows,
                columns,
                inner,
                values.as_mut_ptr(),
                1,
                columns as isize,
                false,
                self.values.as_ptr(),
                1,
                self.columns as isize,
                other.values.as_ptr(),
                column_stride,
                row_stride,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::Rayon(0),
            );
        }
        Self::new(self.rows, columns, values)
    }
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `y += factor · x`.
pub(crate) fn add_scaled(y: &mut [f64], factor: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += factor * x;
    }
}
