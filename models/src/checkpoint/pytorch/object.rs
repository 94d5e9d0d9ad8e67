//! What the pickle of a state dict may consist of.

use safetensors::Dtype;

/// The position of an object among those that the pickle has built.
pub(super) type Id = usize;

/// An object. It refers to others by position, so that neither deep nor circular ones need recursion.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Object<'a> {
    Integer(i64),
    Text(&'a str),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage<'a>),
    Tensor(Tensor<'a>),
    /// A value that no tensor depends on.
    Other(&'static str),
}

impl Object<'_> {
    /// Its kind, for an error.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Integer(_) => "an integer",
            Self::Text(_) => "a text",
            Self::Tuple(_) => "a tuple",
            Self::Dict(_) => "a dictionary",
            Self::Global(_) => "a class or function",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
            Self::Other(kind) => kind,
        }
    }
}

/// A class, function or dtype of Python that is recognised; none of them is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    /// `_rebuild_tensor_v2`, and `_rebuild_tensor_v3` for types without a storage of their own.
    RebuildTensor {
        has_dtype: bool,
    },
    RebuildParameter,
    Storage(Dtype),
    /// A storage of bytes: the dtype is an argument of `_rebuild_tensor_v3`.
    UntypedStorage,
    Dtype(Dtype),
}

/// The names of `torch` besides functions: storages by the type of their elements, and dtypes.
const TORCH: [(&str, Global); 28] = [
    ("DoubleStorage", Global::Storage(Dtype::F64)),
    ("FloatStorage", Global::Storage(Dtype::F32)),
    ("HalfStorage", Global::Storage(Dtype::F16)),
    ("BFloat16Storage", Global::Storage(Dtype::BF16)),
    ("LongStorage", Global::Storage(Dtype::I64)),
    ("IntStorage", Global::Storage(Dtype::I32)),
    ("ShortStorage", Global::Storage(Dtype::I16)),
    ("CharStorage", Global::Storage(Dtype::I8)),
    ("ByteStorage", Global::Storage(Dtype::U8)),
    ("BoolStorage", Global::Storage(Dtype::BOOL)),
    ("UntypedStorage", Global::UntypedStorage),
    ("float64", Global::Dtype(Dtype::F64)),
    ("float32", Global::Dtype(Dtype::F32)),
    ("float16", Global::Dtype(Dtype::F16)),
    ("bfloat16", Global::Dtype(Dtype::BF16)),
    ("float8_e4m3fn", Global::Dtype(Dtype::F8_E4M3)),
    ("float8_e5m2", Global::Dtype(Dtype::F8_E5M2)),
    ("float8_e8m0fnu", Global::Dtype(Dtype::F8_E8M0)),
    ("int64", Global::Dtype(Dtype::I64)),
    ("int32", Global::Dtype(Dtype::I32)),
    ("int16", Global::Dtype(Dtype::I16)),
    ("int8", Global::Dtype(Dtype::I8)),
    ("uint64", Global::Dtype(Dtype::U64)),
    ("uint32", Global::Dtype(Dtype::U32)),
    ("uint16", Global::Dtype(Dtype::U16)),
    ("uint8", Global::Dtype(Dtype::U8)),
    ("bool", Global::Dtype(Dtype::BOOL)),
    ("complex64", Global::Dtype(Dtype::C64)),
];

impl Global {
    /// The global of that name; `None` if a state dict has no use for it.
    pub(super) fn named(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor { has_dtype: false }),
            ("torch._utils", "_rebuild_tensor_v3") => Some(Self::RebuildTensor { has_dtype: true }),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch" | "torch.storage", name) => TORCH.iter().find(|(known, _)| *known == name).map(|(_, global)| *global),
            _ => None,
        }
    }
}

/// A run of elements in a file of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Storage<'a> {
    /// The name of the file.
    pub key: &'a str,
    /// The type of the elements; `None` if they are bytes.
    pub dtype: Option<Dtype>,
    /// How many elements there are.
    pub count: usize,
}

/// A view of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tensor<'a> {
    /// The storage.
    pub storage: Storage<'a>,
    /// The type of the elements.
    pub dtype: Dtype,
    /// The position of the first element in the storage.
    pub offset: usize,
    /// The tuple of its shape.
    pub shape: Id,
    /// The tuple that says how many elements lie between neighbours in each dimension.
    pub strides: Id,
}
