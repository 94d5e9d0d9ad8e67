//! What `torch.save` writes for a state dict: a zip archive of a pickle, which describes the tensors, and their storages.
//!
//! Source: `torch/serialization.py` of PyTorch 2.15.

mod object;
mod pickle;
mod view;
mod zip;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use memmap2::Mmap;
use safetensors::Dtype;

use self::object::{Object, Tensor};
use self::pickle::Pickle;
use self::view::View;
use self::zip::{Entries, entries, shown};
use super::{Checkpoint, element, mapped, release};
use crate::error::{ModelError, Result};
use crate::float_type::FloatType;

/// The description of the tensors, inside the folder of the archive.
const PICKLE: &str = "/data.pkl";
/// Where training programs put a state dict among other things.
const NESTED: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];
/// The most bytes of a tensor's name.
const NAME_BYTES: usize = 1024;
/// The beginning of files that `torch.save` of PyTorch before 1.6 wrote: a pickle with a magic number.
const LEGACY: [u8; 6] = [0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc];

/// Memory-mapped files of `torch.save`: one, or several shards.
#[derive(Debug)]
pub struct PytorchFiles {
    files: Vec<MappedFile>,
    /// For each tensor, the index of its file.
    file_of: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct MappedFile {
    path: PathBuf,
    map: Mmap,
    tensors: BTreeMap<String, View>,
}

impl MappedFile {
    fn open(path: &Path) -> Result<Self> {
        let (file, length) = mapped::open(path)?;
        if length == 0 {
            return Err(ModelError::format(path, "the file is empty"));
        }
        // SAFETY: the map is read-only. As with every memory-mapped reader, no other program may truncate the file meanwhile.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| ModelError::io(path, error))?;
        let tensors = tensors(&map).map_err(|reason| ModelError::format(path, reason))?;
        Ok(Self { path: path.to_owned(), map, tensors })
    }
}

impl PytorchFiles {
    /// Opens the named files as one checkpoint. No code in them is run.
    ///
    /// # Errors
    /// If a file is not an archive of `torch.save`, has more than tensors, is damaged, or two files have a tensor of the same name.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut files = Vec::with_capacity(paths.len());
        let mut file_of = BTreeMap::new();
        for path in paths {
            let file = MappedFile::open(path)?;
            for name in file.tensors.keys() {
                if file_of.insert(name.clone(), files.len()).is_some() {
                    return Err(ModelError::format(path, format!("`{name}` is also in another shard")));
                }
            }
            files.push(file);
        }
        Ok(Self { files, file_of })
    }

    fn locate(&self, name: &str) -> Option<(&MappedFile, &View)> {
        let file = &self.files[*self.file_of.get(name)?];
        file.tensors.get(name).map(|view| (file, view))
    }

    /// Calls `read` with the bytes of a tensor and their type; `read` returns `None` if they are not floats.
    fn with_bytes<T>(&self, name: &str, read: impl FnOnce(&[u8], Dtype) -> Option<T>) -> Result<T> {
        let (file, view) =
            self.locate(name).ok_or_else(|| ModelError::Mismatch { problems: vec![format!("{name}: missing")] })?;
        let bytes = &file.map[view.range.clone()];
        let values = if view.is_contiguous() { read(bytes, view.dtype) } else { read(&view.gathered(bytes), view.dtype) };
        let values = values.ok_or_else(|| {
            ModelError::format(&file.path, format!("`{name}`: expected a tensor of floats, got {}", view.dtype))
        })?;
        release(&file.map, view.range.start, view.range.len());
        Ok(values)
    }
}

impl Checkpoint for PytorchFiles {
    fn names(&self) -> Vec<String> {
        self.file_of.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.locate(name).map(|(_, view)| view.shape.clone())
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.with_bytes(name, element::to_f32)
    }

    fn read(&self, name: &str, dtype: FloatType) -> Result<TensorData> {
        self.with_bytes(name, |bytes, stored| element::convert(name, bytes, stored, dtype))?
    }

    fn float_type(&self, name: &str) -> Option<FloatType> {
        element::float_type(self.locate(name)?.1.dtype)
    }

    fn is_float8(&self, name: &str) -> bool {
        self.locate(name).is_some_and(|(_, view)| element::is_float8(view.dtype))
    }

    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        let dtype = self.locate(name)?.1.dtype;
        element::is_integer(dtype).then_some(dtype)
    }

    fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        self.with_bytes(name, |bytes, _| Some(bytes.to_vec()))
    }

    fn file_of(&self, name: &str) -> Option<PathBuf> {
        self.locate(name).map(|(file, _)| file.path.clone())
    }

    fn files(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.path.clone()).collect()
    }
}

/// The tensors of a file.
fn tensors(bytes: &[u8]) -> std::result::Result<BTreeMap<String, View>, String> {
    if !bytes.starts_with(b"PK") {
        return Err(if bytes.starts_with(&LEGACY) {
            "is in the format of torch.save before PyTorch 1.6, which is not read; \
             torch.save(torch.load(path, weights_only=True), path) rewrites it"
                .to_owned()
        } else {
            "not a file of torch.save: expected a zip archive".to_owned()
        });
    }
    let entries = entries(bytes)?;
    let found = entries.iter().filter_map(|(name, range)| Some((name.strip_suffix(PICKLE)?, range)));
    let (folder, pickle) =
        found.min_by_key(|(folder, _)| *folder).ok_or("not a file of torch.save: its archive has no `data.pkl`")?;
    if entries.contains_key(format!("{folder}/constants.pkl").as_str()) {
        return Err("is a TorchScript program, not a state dict; torch.save(model.state_dict(), path) writes one".to_owned());
    }
    let order = entries.get(format!("{folder}/byteorder").as_str()).map(|range| &bytes[range.clone()]);
    if order.is_some_and(|order| order != b"little") {
        return Err("was written on a big-endian machine, which is not supported".to_owned());
    }
    let pickle = Pickle::read(&bytes[pickle.clone()]).map_err(|reason| format!("its `data.pkl`: {reason}"))?;
    let named = state_dict(&pickle)?;
    let views = named.into_iter().map(|(name, tensor)| {
        let view = view(&pickle, tensor, folder, &entries, bytes.len());
        view.map(|view| (name.to_owned(), view)).map_err(|reason| format!("`{}`: {reason}", shown(name)))
    });
    views.collect()
}

/// The tensors of the dictionary that a pickle stands for, or of the state dict inside it.
fn state_dict<'p, 'a>(pickle: &'p Pickle<'a>) -> std::result::Result<BTreeMap<&'a str, &'p Tensor<'a>>, String> {
    let items = match pickle.get(pickle.root) {
        Object::Dict(items) => items,
        other => return Err(format!("expected a state dict, got {}", other.kind())),
    };
    let mut items = named(pickle, items);
    if !items.iter().any(|(_, value)| matches!(value, Object::Tensor(_))) {
        let nested = NESTED.iter().find_map(|key| match items.iter().find(|(name, _)| name == key) {
            Some((_, Object::Dict(items))) => Some(items),
            _ => None,
        });
        items = named(pickle, nested.ok_or("expected a state dict, got a dictionary without tensors")?);
    }
    let mut tensors = BTreeMap::new();
    for (name, value) in items {
        if name.len() > NAME_BYTES {
            return Err(format!("`{}` is too long for the name of a tensor", shown(name)));
        }
        if let Object::Tensor(tensor) = value {
            tensors.insert(name, tensor);
        }
    }
    Ok(tensors)
}

/// The items of a dictionary that have a text as their key.
fn named<'p, 'a>(pickle: &'p Pickle<'a>, items: &[(usize, usize)]) -> Vec<(&'a str, &'p Object<'a>)> {
    let text = |(key, value): &(usize, usize)| match pickle.get(*key) {
        Object::Text(text) => Some((*text, pickle.get(*value))),
        _ => None,
    };
    items.iter().filter_map(text).collect()
}

/// A tensor in the file, where its storage lies.
fn view(
    pickle: &Pickle,
    tensor: &Tensor,
    folder: &str,
    entries: &Entries,
    file: usize,
) -> std::result::Result<View, String> {
    let storage = tensor.storage;
    let missing = || format!("its storage `{}` is missing from the archive", shown(storage.key));
    let path = (storage.key.len() <= NAME_BYTES).then(|| format!("{folder}/data/{}", storage.key)).ok_or_else(missing)?;
    let entry = entries.get(path.as_str()).ok_or_else(missing)?;
    let size = storage.dtype.map_or(1, |dtype| dtype.bitsize() / 8);
    if storage.count.checked_mul(size) != Some(entry.len()) {
        return Err(format!("its storage should have {} elements, but has {} bytes", storage.count, entry.len()));
    }
    let (shape, strides) = (pickle.sizes(tensor.shape)?, pickle.sizes(tensor.strides)?);
    View::new(tensor.dtype, shape, &strides, tensor.offset, entry, file)
}
