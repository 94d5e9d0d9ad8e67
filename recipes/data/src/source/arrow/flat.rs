//! FlatBuffers, in which the headers of an Arrow file are written.

/// A table: its fields are found by their number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Table<'a> {
    /// The table that a buffer holds.
    pub(super) fn root(bytes: &'a [u8]) -> Option<Self> {
        Some(Self { bytes, at: u32_at(bytes, 0)? as usize })
    }

    /// Where a field is; `None` if it is absent.
    fn position(&self, number: usize) -> Option<usize> {
        let back = i32_at(self.bytes, self.at)?;
        let fields = usize::try_from(i64::try_from(self.at).ok()? - i64::from(back)).ok()?;
        let entry = 4 + 2 * number;
        if entry + 2 > usize::from(u16_at(self.bytes, fields)?) {
            return None;
        }
        match u16_at(self.bytes, fields.checked_add(entry)?)? {
            0 => None,
            offset => self.at.checked_add(offset.into()),
        }
    }

    /// What a field refers to.
    fn target(&self, number: usize) -> Option<usize> {
        let at = self.position(number)?;
        at.checked_add(u32_at(self.bytes, at)? as usize)
    }

    pub(super) fn byte(&self, number: usize) -> Option<u8> {
        self.bytes.get(self.position(number)?).copied()
    }

    pub(super) fn short(&self, number: usize) -> Option<i16> {
        u16_at(self.bytes, self.position(number)?).map(|value| value as i16)
    }

    pub(super) fn int(&self, number: usize) -> Option<i32> {
        i32_at(self.bytes, self.position(number)?)
    }

    pub(super) fn long(&self, number: usize) -> Option<i64> {
        i64_at(self.bytes, self.position(number)?)
    }

    pub(super) fn table(&self, number: usize) -> Option<Self> {
        Some(Self { bytes: self.bytes, at: self.target(number)? })
    }

    pub(super) fn text(&self, number: usize) -> Option<&'a str> {
        let at = self.target(number)?;
        let length = u32_at(self.bytes, at)? as usize;
        std::str::from_utf8(self.bytes.get(at + 4..)?.get(..length)?).ok()
    }

    /// The elements of a list, of so many bytes each; an absent list has none. `None` if the list is damaged.
    fn elements(&self, number: usize, size: usize) -> Option<std::slice::ChunksExact<'a, u8>> {
        if self.position(number).is_none() {
            return Some([].chunks_exact(size));
        }
        let at = self.target(number)?;
        let length = (u32_at(self.bytes, at)? as usize).checked_mul(size)?;
        Some(self.bytes.get(at + 4..)?.get(..length)?.chunks_exact(size))
    }

    /// A list of structures of numbers, of which each has 8 bytes.
    pub(super) fn longs<const N: usize>(&self, number: usize) -> Option<Vec<[i64; N]>> {
        let long = |bytes: &[u8], at: usize| i64_at(bytes, 8 * at).unwrap_or_default();
        let elements = self.elements(number, 8 * N)?;
        Some(elements.map(|bytes| std::array::from_fn(|at| long(bytes, at))).collect())
    }

    pub(super) fn tables(&self, number: usize) -> Option<Vec<Self>> {
        let mut at = match self.position(number) {
            Some(_) => self.target(number)? + 4,
            None => 0,
        };
        let mut tables = Vec::new();
        for offset in self.elements(number, 4)? {
            tables.push(Self { bytes: self.bytes, at: at.checked_add(u32_at(offset, 0)? as usize)? });
            at += 4;
        }
        Some(tables)
    }
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    chunk(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    chunk(bytes, at).map(u32::from_le_bytes)
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    chunk(bytes, at).map(i32::from_le_bytes)
}

fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    chunk(bytes, at).map(i64::from_le_bytes)
}
