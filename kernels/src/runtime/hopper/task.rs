//! The kernels' text, and what it is compiled for.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;

use burn::tensor::DType;
use cubecl::Runtime;
use cubecl::prelude::CubeDim;
use cubecl::server::ExecutionMode;
use cubecl_cpp::shared::{Elem, Item, SharedMemory};
use cubecl_cuda::CudaRuntime;
use cubecl_ir::{ElemType, Scope, StorageType, UIntKind};
use cubecl_runtime::compiler::{CompilationError, Compiler, CubeTask};
use cubecl_runtime::id::KernelId;
use cubecl_runtime::kernel::{CompiledKernel, KernelDefinition, KernelMetadata, KernelOptions};

type Cuda = <CudaRuntime as Runtime>::Compiler;

/// Threads of a warpgroup.
const GROUP: usize = 128;
/// Rows that a warpgroup owns, and rows of a tile.
pub(super) const ROWS: usize = 64;
/// Elements of a row of a tile in shared memory, 128 bytes.
pub(super) const COLUMNS: usize = 64;
/// Bytes of a tile of 64 rows.
const TILE: usize = ROWS * COLUMNS * 2;
/// Bytes of a stage's statistics: the logarithms of 64 sums, and 64 deltas, up to the alignment of a tile.
const STATISTICS: usize = 1024;
/// Alignment of a tile.
const ALIGNMENT: usize = 1024;

/// The text that all kernels share.
const SHARED_TEXT: [&str; 3] =
    [include_str!("text/device.cu"), include_str!("text/products.cu"), include_str!("text/rows.cu")];
const FORWARD_TEXT: &str = include_str!("text/forward.cu");
const QUERY_TEXT: &str = include_str!("text/query_pass.cu");
const KEY_TEXT: &str = include_str!("text/key_pass.cu");

/// Which kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Pass {
    /// The result, and the logarithm of each query's sum.
    Forward,
    /// The gradient for queries.
    Query,
    /// Those for keys and values.
    Key,
}

/// What a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Plan {
    pub pass: Pass,
    pub head_dim: usize,
    pub dtype: DType,
    /// A query sees its own segment only.
    pub segments: bool,
    /// A query sees the nearest keys only.
    pub window: bool,
}

impl Plan {
    /// Warpgroups of a cube. Measured on an H200, bf16, 4 x 2048 tokens, 32 heads of 64 and of 128.
    fn groups(self) -> usize {
        if self.head_dim == COLUMNS { 3 } else { 2 }
    }

    /// Stages of tiles in shared memory: one is used, one may still be read by slower warpgroups, and the others are filled.
    fn stages(self) -> usize {
        4
    }

    /// Tiles of keys in a stage of the forward.
    fn halves(self) -> usize {
        if self.head_dim == COLUMNS && !self.segments { 2 } else { 1 }
    }

    /// Rows that a cube owns.
    pub fn rows(self) -> usize {
        self.groups() * ROWS
    }

    /// Bytes of shared memory.
    fn shared_bytes(self) -> usize {
        let tile = TILE * self.head_dim / COLUMNS;
        let (own, stage) = match self.pass {
            Pass::Forward => (1, 2 * self.halves() * tile),
            Pass::Query => (2, 2 * tile),
            Pass::Key => (2, 2 * tile + STATISTICS),
        };
        // Two barriers a stage, and one for the own rows.
        ALIGNMENT + own * self.groups() * tile + self.stages() * (stage + 16) + 8
    }

    fn cube_dim(self) -> CubeDim {
        CubeDim::new_1d((self.groups() * GROUP) as u32)
    }

    fn entry(self) -> &'static str {
        match self.pass {
            Pass::Forward => "forward",
            Pass::Query => "query_pass",
            Pass::Key => "key_pass",
        }
    }

    /// What the text is compiled for.
    fn definitions(self) -> [(&'static str, usize); 7] {
        [
            ("HD", self.head_dim),
            ("BF16", usize::from(self.dtype == DType::BF16)),
            ("GROUPS", self.groups()),
            ("STAGES", self.stages()),
            ("HALVES", self.halves()),
            ("SEGMENTS", usize::from(self.segments)),
            ("WINDOW", usize::from(self.window)),
        ]
    }

    fn text(self) -> String {
        let pass = match self.pass {
            Pass::Forward => FORWARD_TEXT,
            Pass::Query => QUERY_TEXT,
            Pass::Key => KEY_TEXT,
        };
        let defined = self.definitions().map(|(name, value)| format!("#define {name} {value}\n")).concat();
        format!("{defined}{}{pass}", SHARED_TEXT.concat())
    }
}

/// A kernel for cubecl to compile and launch.
pub(super) struct Task(pub Plan);

impl KernelMetadata for Task {
    fn name(&self) -> &'static str {
        match self.0.pass {
            Pass::Forward => "burnish_kernels::hopper::forward",
            Pass::Query => "burnish_kernels::hopper::query_pass",
            Pass::Key => "burnish_kernels::hopper::key_pass",
        }
    }

    /// With a hash of the texts, because cubecl may keep compiled kernels on disk under their identifiers.
    fn id(&self) -> KernelId {
        static TEXTS: LazyLock<u64> = LazyLock::new(|| {
            let mut hasher = DefaultHasher::new();
            (SHARED_TEXT, FORWARD_TEXT, QUERY_TEXT, KEY_TEXT).hash(&mut hasher);
            hasher.finish()
        });
        KernelId::new::<Self>().cube_dim(self.0.cube_dim()).info((self.0.pass, self.0.definitions(), *TEXTS))
    }

    fn address_type(&self) -> StorageType {
        StorageType::Scalar(ElemType::UInt(UIntKind::U32))
    }
}

impl CubeTask<Cuda> for Task {
    fn compile(
        &self,
        compiler: &mut Cuda,
        options: &<Cuda as Compiler>::CompilationOptions,
        mode: ExecutionMode,
        address_type: StorageType,
    ) -> Result<CompiledKernel<Cuda>, CompilationError> {
        let plan = self.0;
        let nothing = KernelDefinition {
            buffers: Vec::new(),
            tensor_maps: Vec::new(),
            scalars: Vec::new(),
            cube_dim: plan.cube_dim(),
            body: Scope::root(false),
            options: KernelOptions { kernel_name: plan.entry().to_owned(), ..KernelOptions::default() },
        };
        // cubecl asks it for the size of shared memory only.
        let mut outline = compiler.compile(nothing, options, mode, address_type)?;
        outline.body.shared_memories =
            vec![SharedMemory::new_array(0, Item::scalar(Elem::U8, false), plan.shared_bytes(), ALIGNMENT)];
        Ok(CompiledKernel {
            entrypoint_name: plan.entry().to_owned(),
            debug_name: Some(self.name()),
            source: plan.text(),
            repr: Some(outline),
            cube_dim: plan.cube_dim(),
            debug_info: None,
        })
    }
}
