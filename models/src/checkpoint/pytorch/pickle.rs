//! Reads the pickle of a state dict. It builds dictionaries and descriptions of tensors; it calls nothing and imports nothing.
//!
//! Source: `pickle.py` and `pickletools.py` of Python 3.13 for the opcodes, `torch/_utils.py` of PyTorch 2.15 for the arguments of the
//! functions that rebuild tensors.

use std::collections::HashMap;

use super::object::{Global, Id, Object, Storage, Tensor};
use super::zip::shown;

/// A result whose error lacks the path.
pub(super) type Read<T> = Result<T, String>;

/// The most objects of a pickle, which bounds the memory that a small file can take. A tensor has about twenty.
const MOST_OBJECTS: usize = 1 << 21;
/// The most dimensions of a tensor.
const MOST_DIMENSIONS: usize = 8;

/// The objects of a pickle.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    objects: Vec<Object<'a>>,
    /// The object that it stands for.
    pub root: Id,
}

impl<'a> Pickle<'a> {
    /// The object at a position that another object has.
    pub(super) fn get(&self, id: Id) -> &Object<'a> {
        &self.objects[id]
    }

    /// The sizes in a tuple.
    ///
    /// # Errors
    /// If it is another object, or has other items.
    pub(super) fn sizes(&self, id: Id) -> Read<Vec<usize>> {
        match &self.objects[id] {
            Object::Tuple(items) if items.len() <= MOST_DIMENSIONS => {
                items.iter().map(|item| size_of(&self.objects, *item)).collect()
            }
            Object::Tuple(items) => Err(format!("{} dimensions are more than {MOST_DIMENSIONS}", items.len())),
            other => Err(format!("expected a tuple of sizes, got {}", other.kind())),
        }
    }

    /// Reads a pickle.
    ///
    /// # Errors
    /// If it is malformed, or has opcodes, classes or functions that no state dict needs; these are named.
    pub(super) fn read(bytes: &'a [u8]) -> Read<Self> {
        let mut machine = Machine { bytes, ..Machine::default() };
        loop {
            let code = machine.take(1)?[0];
            if code == b'.' {
                let root = machine.pop()?;
                return Ok(Self { objects: machine.objects, root });
            }
            machine.step(code)?;
        }
    }
}

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    objects: Vec<Object<'a>>,
    stack: Vec<Id>,
    /// For each open mark, the length of the stack below it.
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl<'a> Machine<'a> {
    fn step(&mut self, code: u8) -> Read<()> {
        match code {
            // PROTO and FRAME.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            // POP and POP_MARK; APPEND and APPENDS, since no tensor depends on a list.
            b'0' | b'a' => drop(self.pop()?),
            b'1' | b'e' => drop(self.pop_marked()?),
            b'2' => self.stack.push(self.top()?),
            b'N' => self.push(Object::Other("None"))?,
            0x88 | 0x89 => self.push(Object::Other("a boolean"))?,
            b'K' => self.integer::<1>()?,
            b'M' => self.integer::<2>()?,
            b'J' => {
                let value = self.number::<4>()? as u32;
                self.push(Object::Integer(i64::from(value.cast_signed())))?;
            }
            0x8a => self.long()?,
            b'G' => {
                self.take(8)?;
                self.push(Object::Other("a float"))?;
            }
            0x8c => self.text::<1>()?,
            b'X' => self.text::<4>()?,
            0x8d => self.text::<8>()?,
            b')' => self.push(Object::Tuple(Vec::new()))?,
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(code - 0x84))?;
                self.push(Object::Tuple(items))?;
            }
            b't' => {
                let items = self.pop_marked()?;
                self.push(Object::Tuple(items))?;
            }
            b'}' => self.push(Object::Dict(Vec::new()))?,
            b']' => self.push(Object::Other("a list"))?,
            b's' => {
                let pair = self.pop_many(2)?;
                self.set_items(&pair)?;
            }
            b'u' => {
                let items = self.pop_marked()?;
                self.set_items(&items)?;
            }
            b'q' => self.remember::<1>()?,
            b'r' => self.remember::<4>()?,
            0x94 => drop(self.memo.insert(self.memo.len(), self.top()?)),
            b'h' => self.recall::<1>()?,
            b'j' => self.recall::<4>()?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let names = self.pop_many(2)?;
                let (module, name) = (self.text_of(names[0])?, self.text_of(names[1])?);
                self.global(module, name)?;
            }
            b'Q' => self.persistent()?,
            b'R' => self.reduce()?,
            // The state of a dictionary: `_metadata`, the versions of modules.
            b'b' => {
                self.pop()?;
                self.require_dict("a state")?;
            }
            other => return Err(format!("the opcode {other:#04x} at byte {} is not one of a state dict", self.at - 1)),
        }
        Ok(())
    }

    fn take(&mut self, length: usize) -> Read<&'a [u8]> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| format!("the pickle is cut off at byte {}", self.at))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Read<u64> {
        Ok(self.take(N)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn line(&mut self) -> Read<&'a str> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or("the pickle is cut off in a name")?;
        let line = self.take(length + 1)?;
        std::str::from_utf8(&line[..length]).map_err(|_| "the pickle has a name that is not UTF-8".to_owned())
    }

    fn push(&mut self, object: Object<'a>) -> Read<()> {
        if self.objects.len() >= MOST_OBJECTS {
            return Err(format!("the pickle has more than {MOST_OBJECTS} objects"));
        }
        self.stack.push(self.objects.len());
        self.objects.push(object);
        Ok(())
    }

    /// The length of the stack below the innermost mark, which must not be popped.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Read<Id> {
        let found = self.stack.last().filter(|_| self.stack.len() > self.floor());
        found.copied().ok_or_else(|| format!("the pickle takes more than it has put down, at byte {}", self.at))
    }

    fn pop(&mut self) -> Read<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, count: usize) -> Read<Vec<Id>> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Read<Vec<Id>>>()?;
        items.reverse();
        Ok(items)
    }

    fn pop_marked(&mut self) -> Read<Vec<Id>> {
        let mark =
            self.marks.pop().ok_or_else(|| format!("the pickle closes a mark that is not open, at byte {}", self.at))?;
        Ok(self.stack.split_off(mark))
    }

    fn integer<const N: usize>(&mut self) -> Read<()> {
        let value = self.number::<N>()?;
        self.push(Object::Integer(value as i64))
    }

    /// An integer of up to 255 bytes in two's complement; only those of 64 bits can be sizes.
    fn long(&mut self) -> Read<()> {
        let length = usize::from(self.take(1)?[0]);
        let bytes = self.take(length)?;
        if length > 8 {
            return self.push(Object::Other("a large integer"));
        }
        let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [sign; 8];
        wide[..length].copy_from_slice(bytes);
        self.push(Object::Integer(i64::from_le_bytes(wide)))
    }

    fn text<const N: usize>(&mut self) -> Read<()> {
        let length = usize::try_from(self.number::<N>()?).unwrap_or(usize::MAX);
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "the pickle has a text that is not UTF-8")?;
        self.push(Object::Text(text))
    }

    fn remember<const N: usize>(&mut self) -> Read<()> {
        let (key, top) = (self.number::<N>()? as usize, self.top()?);
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall<const N: usize>(&mut self) -> Read<()> {
        let key = self.number::<N>()? as usize;
        let id = self.memo.get(&key).ok_or_else(|| format!("the pickle recalls {key}, which it has not stored"))?;
        self.stack.push(*id);
        Ok(())
    }

    fn require_dict(&mut self, what: &str) -> Read<&mut Vec<(Id, Id)>> {
        let top = self.top()?;
        match &mut self.objects[top] {
            Object::Dict(items) => Ok(items),
            other => Err(format!("expected a dictionary for {what}, got {}", other.kind())),
        }
    }

    fn set_items(&mut self, items: &[Id]) -> Read<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("a dictionary has a key without a value".to_owned());
        }
        self.require_dict("its items")?.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Read<()> {
        let found = Global::named(module, name).ok_or_else(|| {
            format!(
                "it needs `{}.{}` of Python, which is not part of a state dict of tensors; no code of the file was run, and \
                 torch.save(model.state_dict(), path) writes a file without it",
                shown(module),
                shown(name)
            )
        })?;
        self.push(Object::Global(found))
    }

    fn text_of(&self, id: Id) -> Read<&'a str> {
        match &self.objects[id] {
            Object::Text(text) => Ok(text),
            other => Err(format!("expected a text, got {}", other.kind())),
        }
    }

    fn tuple_of(&self, id: Id) -> Read<&[Id]> {
        match &self.objects[id] {
            Object::Tuple(items) => Ok(items),
            other => Err(format!("expected a tuple, got {}", other.kind())),
        }
    }

    /// `("storage", class, key, device, number of elements)`.
    fn persistent(&mut self) -> Read<()> {
        let id = self.pop()?;
        let &[kind, class, key, _device, count] = self.tuple_of(id)? else {
            return Err("expected a storage with a class, a key, a device and a size".to_owned());
        };
        if self.text_of(kind)? != "storage" {
            return Err("expected a storage, got another object that is kept outside of the pickle".to_owned());
        }
        let dtype = match &self.objects[class] {
            Object::Global(Global::Storage(dtype)) => Some(*dtype),
            Object::Global(Global::UntypedStorage) => None,
            other => return Err(format!("expected the class of a storage, got {}", other.kind())),
        };
        let storage = Storage { key: self.text_of(key)?, dtype, count: size_of(&self.objects, count)? };
        self.push(Object::Storage(storage))
    }

    /// What a call of a known class or function gives.
    fn reduce(&mut self) -> Read<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let arguments = self.tuple_of(arguments)?;
        let Object::Global(function) = self.objects[function] else {
            return Err(format!("expected a function, got {}", self.objects[function].kind()));
        };
        let object = match (function, arguments) {
            (Global::OrderedDict, []) => Object::Dict(Vec::new()),
            // Whether it is trained, and its hooks, are of no interest.
            (Global::RebuildParameter, [data, ..]) => match &self.objects[*data] {
                Object::Tensor(tensor) => Object::Tensor(*tensor),
                other => return Err(format!("expected a tensor for a parameter, got {}", other.kind())),
            },
            (Global::RebuildTensor { has_dtype: false }, [storage, offset, shape, strides, ..]) => {
                Object::Tensor(self.tensor([*storage, *offset, *shape, *strides], None)?)
            }
            (Global::RebuildTensor { has_dtype: true }, [storage, offset, shape, strides, _, _, dtype, ..]) => {
                Object::Tensor(self.tensor([*storage, *offset, *shape, *strides], Some(*dtype))?)
            }
            (function, arguments) => return Err(format!("{function:?} is called with {} arguments", arguments.len())),
        };
        self.push(object)
    }

    fn tensor(&self, [storage, offset, shape, strides]: [Id; 4], dtype: Option<Id>) -> Read<Tensor<'a>> {
        let Object::Storage(storage) = self.objects[storage] else {
            return Err(format!("expected a storage for a tensor, got {}", self.objects[storage].kind()));
        };
        let dtype = match dtype.map(|id| &self.objects[id]) {
            None => storage.dtype,
            Some(Object::Global(Global::Dtype(dtype))) => Some(*dtype),
            Some(other) => return Err(format!("expected a dtype, got {}", other.kind())),
        };
        let dtype = dtype.ok_or("a tensor of an untyped storage has no dtype")?;
        Ok(Tensor { storage, dtype, offset: size_of(&self.objects, offset)?, shape, strides })
    }
}

fn size_of(objects: &[Object], id: Id) -> Read<usize> {
    match &objects[id] {
        Object::Integer(value) => usize::try_from(*value).map_err(|_| format!("{value} is not a size")),
        other => Err(format!("expected a size, got {}", other.kind())),
    }
}
