//! Messages of protocol buffers: those that the files of trackers consist of are few and small.
//!
//! # Source
//! <https://protobuf.dev/programming-guides/encoding>

/// A message that is written field by field.
#[derive(Debug, Clone, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// An integer, an enum or a boolean.
    pub fn integer(self, field: u32, value: u64) -> Self {
        let mut message = self.key(field, 0);
        message.varint(value);
        message
    }

    pub fn double(self, field: u32, value: f64) -> Self {
        let mut message = self.key(field, 1);
        message.0.extend(value.to_le_bytes());
        message
    }

    pub fn float(self, field: u32, value: f32) -> Self {
        let mut message = self.key(field, 5);
        message.0.extend(value.to_le_bytes());
        message
    }

    pub fn bytes(self, field: u32, value: &[u8]) -> Self {
        let mut message = self.key(field, 2);
        message.varint(value.len() as u64);
        message.0.extend(value);
        message
    }

    /// A text. Without an empty one, the field has its default.
    pub fn text(self, field: u32, value: &str) -> Self {
        if value.is_empty() { self } else { self.bytes(field, value.as_bytes()) }
    }

    pub fn message(self, field: u32, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn key(mut self, field: u32, wire: u64) -> Self {
        self.varint(u64::from(field) << 3 | wire);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// The value of a field that was read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    Integer(u64),
    Bytes(&'a [u8]),
    /// A double or a float, which nothing here reads.
    Fixed,
}

/// The fields of a message, in their order, up to the first that is damaged.
pub(super) fn fields(mut message: &[u8]) -> impl Iterator<Item = (u32, Value<'_>)> {
    std::iter::from_fn(move || next(&mut message))
}

/// The first value of a field.
pub(super) fn field(message: &[u8], number: u32) -> Option<Value<'_>> {
    fields(message).find(|(found, _)| *found == number).map(|(_, value)| value)
}

fn next<'a>(message: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    let key = read_varint(message)?;
    let value = match key & 7 {
        0 => Value::Integer(read_varint(message)?),
        2 => {
            let length = usize::try_from(read_varint(message)?).ok()?;
            Value::Bytes(message.split_off(..length)?)
        }
        wire @ (1 | 5) => {
            message.split_off(..if wire == 1 { 8 } else { 4 })?;
            Value::Fixed
        }
        _ => return None,
    };
    Some((u32::try_from(key >> 3).ok()?, value))
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_encoded_as_the_documentation_shows_and_read_back() {
        // The examples of the documentation: field 1 = 150, field 2 = "testing", field 3 = the first message.
        let inner = Message::default().integer(1, 150);
        assert_eq!(inner.as_bytes(), [0x08, 0x96, 0x01]);
        assert_eq!(Message::default().text(2, "testing").as_bytes(), b"\x12\x07testing");
        assert_eq!(Message::default().message(3, &inner).as_bytes(), b"\x1a\x03\x08\x96\x01");
        let whole = Message::default().double(1, 0.5).float(2, 1.5).text(3, "").message(16, &inner).integer(200, u64::MAX);
        let Some(Value::Bytes(found)) = field(whole.as_bytes(), 16) else { panic!() };
        assert_eq!(field(found, 1), Some(Value::Integer(150)));
        assert_eq!(field(whole.as_bytes(), 200), Some(Value::Integer(u64::MAX)));
        assert_eq!((field(whole.as_bytes(), 1), field(whole.as_bytes(), 3)), (Some(Value::Fixed), None));
    }

    #[test]
    fn damaged_messages_have_no_field() {
        for damaged in
            [&b"\x12\xff\x01ab"[..], b"\x09abc", b"\x80", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0b"]
        {
            assert_eq!(field(damaged, 9), None, "{damaged:?}");
        }
    }
}
