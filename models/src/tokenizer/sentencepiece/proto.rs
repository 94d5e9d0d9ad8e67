//! Reads the file of a SentencePiece model, a protobuf message.
//!
//! Source: `sentencepiece_model.proto` of SentencePiece 0.2.

/// A result whose error lacks the path.
pub(super) type Read<T> = Result<T, String>;

/// The most bytes of a piece. SentencePiece's own limit is 16 characters, except for pieces that users define.
const PIECE_BYTES: usize = 512;

/// What a file says that a tokenizer needs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Model {
    /// The vocabulary, by id.
    pub pieces: Vec<Piece>,
    /// How text is divided into them.
    pub algorithm: Algorithm,
    /// The ids of the special tokens; those below 0 are absent.
    pub unk_id: i32,
    pub bos_id: i32,
    pub eos_id: i32,
    pub pad_id: i32,
    /// Whether bytes stand for characters that the vocabulary lacks.
    pub byte_fallback: bool,
    /// The replacements of characters, as a trie; empty if there are none.
    pub charsmap: Vec<u8>,
    /// Whether a space is put before a text.
    pub add_dummy_prefix: bool,
}

/// A token.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: Kind,
}

/// Kinds of tokens that are treated differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One that is found by its text alone, before a text is divided.
    Control,
    UserDefined,
    Other,
}

/// `TrainerSpec.ModelType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Unigram,
    Bpe,
    /// Of whole words or characters.
    Other(u64),
}

impl Model {
    /// Reads a file.
    ///
    /// # Errors
    /// If it is not a SentencePiece model, or is damaged.
    pub(super) fn read(bytes: &[u8]) -> Read<Self> {
        // The defaults of the message.
        let mut model = Self {
            pieces: Vec::new(),
            algorithm: Algorithm::Unigram,
            unk_id: 0,
            bos_id: 1,
            eos_id: 2,
            pad_id: -1,
            byte_fallback: false,
            charsmap: Vec::new(),
            add_dummy_prefix: true,
        };
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(bytes)) => model.pieces.push(piece(bytes)?),
                (2, Value::Bytes(bytes)) => model.train(bytes)?,
                (3, Value::Bytes(bytes)) => model.normalize(bytes)?,
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err("not a SentencePiece model: it has no pieces".to_owned());
        }
        Ok(model)
    }

    /// The piece with that id; `None` if there is none.
    pub(super) fn piece(&self, id: i32) -> Option<&str> {
        self.pieces.get(usize::try_from(id).ok()?).map(|piece| piece.text.as_str())
    }

    /// `TrainerSpec`.
    fn train(&mut self, bytes: &[u8]) -> Read<()> {
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            let Value::Integer(value) = value else { continue };
            match number {
                3 => {
                    self.algorithm = match value {
                        1 => Algorithm::Unigram,
                        2 => Algorithm::Bpe,
                        other => Algorithm::Other(other),
                    }
                }
                35 => self.byte_fallback = value != 0,
                40 => self.unk_id = id(value),
                41 => self.bos_id = id(value),
                42 => self.eos_id = id(value),
                43 => self.pad_id = id(value),
                _ => {}
            }
        }
        Ok(())
    }

    /// `NormalizerSpec`.
    fn normalize(&mut self, bytes: &[u8]) -> Read<()> {
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (2, Value::Bytes(map)) => self.charsmap = map.to_vec(),
                (3, Value::Integer(value)) => self.add_dummy_prefix = value != 0,
                _ => {}
            }
        }
        Ok(())
    }
}

/// An `int32`, whose negative values are extended to 64 bits.
fn id(value: u64) -> i32 {
    (value as u32).cast_signed()
}

/// `ModelProto.SentencePiece`.
fn piece(bytes: &[u8]) -> Read<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Other };
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Bytes(text)) if text.len() > PIECE_BYTES => {
                return Err(format!("a piece has {} bytes, more than {PIECE_BYTES}", text.len()));
            }
            (1, Value::Bytes(text)) => {
                piece.text = String::from_utf8(text.to_vec()).map_err(|_| "a piece is not UTF-8")?;
            }
            (2, Value::Four(score)) => piece.score = f32::from_le_bytes(score),
            (3, Value::Integer(kind)) => {
                piece.kind = match kind {
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    _ => Kind::Other,
                }
            }
            _ => {}
        }
    }
    Ok(piece)
}

/// The value of a field.
enum Value<'a> {
    Integer(u64),
    Bytes(&'a [u8]),
    Four([u8; 4]),
    /// Of a type that no field of interest has.
    Eight,
}

/// The fields of a message that have not been read yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The next field, with its number.
    fn next(&mut self) -> Read<Option<(u64, Value<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.integer()?;
        let value = match tag & 7 {
            0 => Value::Integer(self.integer()?),
            1 => {
                self.take(8)?;
                Value::Eight
            }
            2 => {
                let length = usize::try_from(self.integer()?).unwrap_or(usize::MAX);
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let mut four = [0; 4];
                four.copy_from_slice(self.take(4)?);
                Value::Four(four)
            }
            other => return Err(format!("not a SentencePiece model: a field has the type {other}")),
        };
        match tag >> 3 {
            0 => Err("not a SentencePiece model: a field has the number 0".to_owned()),
            number => Ok(Some((number, value))),
        }
    }

    fn take(&mut self, length: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or("the SentencePiece model is cut off")?;
        self.0 = rest;
        Ok(taken)
    }

    fn integer(&mut self) -> Read<u64> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("not a SentencePiece model: an integer has more than ten bytes".to_owned())
    }
}
