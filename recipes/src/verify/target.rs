//! What is verified: a backend in a dtype, with the built-in model.

use burnish_models::FloatType;

use super::issues::ISSUES;
use super::progress::Progress;
use crate::quickstart::Folders;

/// What is verified.
pub(super) struct Target<'a> {
    /// The backend, not `auto`.
    pub backend: &'static str,
    /// The dtype that models compute in there.
    pub dtype: FloatType,
    /// Whether everything is checked, however long it takes.
    pub full: bool,
    /// The built-in model and its data, and a folder to write to.
    pub folders: &'a Folders,
    /// Is told what is done.
    pub tell: &'a (dyn Fn(Progress<'_>) + Sync),
}

impl Target<'_> {
    /// f32, and the dtype that models compute in.
    pub(super) fn dtypes(&self) -> Vec<FloatType> {
        let mut dtypes = vec![FloatType::F32, self.dtype];
        dtypes.dedup();
        dtypes
    }

    /// Whether the kernels are burn's own.
    fn is_stock(&self) -> bool {
        matches!(self.backend, "wgpu" | "wgpu-stock" | "emulator-stock" | "candle" | "ndarray" | "tch" | "rocm")
    }

    /// Whom to tell that an operation is wrong.
    pub(super) fn whom_for_kernels(&self) -> String {
        if self.is_stock() {
            return format!(
                "on `{}` the kernels are those of burn: https://github.com/tracel-ai/burn/issues, with the report of `burnish env`",
                self.backend
            );
        }
        let metal = if matches!(self.backend, "metal" | "emulator") {
            ", and say whether BURNISH_SKIP_REPAIR=… of one of the repairs in `burnish env -v` changes it"
        } else {
            ""
        };
        format!("{ISSUES}, with this report and that of `burnish env -v`{metal}; until then use --backend cpu")
    }
}
