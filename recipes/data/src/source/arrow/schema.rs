//! The columns of an Arrow file.

use super::flat::Table;
use crate::source::flaw::Flaw;

/// More columns, and such that are nested deeper, are refused.
const MAX_COLUMNS: usize = 1 << 14;
const MAX_DEPTH: usize = 32;

/// What a column holds.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Null,
    Bool,
    /// Of so many bytes.
    Int {
        bytes: usize,
        signed: bool,
    },
    Float {
        bytes: usize,
    },
    /// Text whose offsets have so many bytes.
    Text {
        offset: usize,
    },
    /// Text of which each value has 16 bytes that say where it is.
    View,
    /// Lists whose offsets have so many bytes.
    List {
        offset: usize,
        element: Box<Field>,
    },
    /// Lists of a fixed length.
    Fixed {
        length: usize,
        element: Box<Field>,
    },
    Struct(Vec<Field>),
    /// Indices into a dictionary with a number.
    Dictionary {
        number: i64,
        bytes: usize,
        signed: bool,
    },
}

/// A column.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Whether its text is JSON.
    pub(super) is_json: bool,
}

/// The columns, and those of its dictionaries with their numbers.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) fields: Vec<Field>,
    pub(super) dictionaries: Vec<(i64, Field)>,
}

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// If it is damaged, or a column has another type.
    pub(super) fn read(schema: Table<'_>) -> Result<Self, Flaw> {
        if schema.short(0).unwrap_or(0) != 0 {
            return Err(Flaw::Unsupported(
                "its numbers have their high bytes first, which is not supported".to_owned(),
                "write the file again on another machine".to_owned(),
            ));
        }
        let mut reader = Reader { left: MAX_COLUMNS, path: Vec::new(), dictionaries: Vec::new() };
        let fields = schema.tables(1).ok_or_else(damaged)?;
        let fields = reader.fields(&fields)?;
        for (at, field) in fields.iter().enumerate() {
            if fields[..at].iter().any(|other| other.name == field.name) {
                return Err(Flaw::damaged(format!("two columns are named `{}`", field.name)));
            }
        }
        Ok(Self { fields, dictionaries: reader.dictionaries })
    }
}

fn damaged() -> Flaw {
    Flaw::damaged("its schema is damaged")
}

struct Reader {
    left: usize,
    path: Vec<String>,
    dictionaries: Vec<(i64, Field)>,
}

impl Reader {
    fn fields(&mut self, fields: &[Table<'_>]) -> Result<Vec<Field>, Flaw> {
        fields.iter().map(|field| self.field(*field)).collect()
    }

    fn field(&mut self, field: Table<'_>) -> Result<Field, Flaw> {
        self.left = self.left.checked_sub(1).ok_or_else(damaged)?;
        if self.path.len() >= MAX_DEPTH {
            return Err(Flaw::damaged(format!("its columns are nested deeper than {MAX_DEPTH}")));
        }
        let name = field.text(0).unwrap_or_default().to_owned();
        self.path.push(name.clone());
        let kind = self.kind(field)?;
        self.path.pop();
        let extension =
            |pair: &Table<'_>| pair.text(0) == Some("ARROW:extension:name") && pair.text(1) == Some("arrow.json");
        let is_json = field.tables(6).unwrap_or_default().iter().any(extension);
        let Some(encoding) = field.table(4) else { return Ok(Field { name, kind, is_json }) };
        let number = encoding.long(0).unwrap_or(0);
        let index = encoding.table(1);
        let Kind::Int { bytes, signed } =
            index.map_or(Some(Kind::Int { bytes: 4, signed: true }), int).ok_or_else(damaged)?
        else {
            return Err(damaged());
        };
        let values = Field { name: name.clone(), kind, is_json };
        if self.dictionaries.iter().all(|(other, _)| *other != number) {
            self.dictionaries.push((number, values));
        }
        Ok(Field { name, kind: Kind::Dictionary { number, bytes, signed }, is_json: false })
    }

    fn kind(&mut self, field: Table<'_>) -> Result<Kind, Flaw> {
        let found = field.table(3).ok_or_else(damaged)?;
        let children = field.tables(5).ok_or_else(damaged)?;
        let only = |reader: &mut Self| match &children[..] {
            [element] => reader.field(*element).map(Box::new),
            _ => Err(damaged()),
        };
        let other = match field.byte(2).unwrap_or(0) {
            1 => return Ok(Kind::Null),
            2 => return int(found).ok_or_else(damaged),
            3 => match found.short(0).unwrap_or(0) {
                0 => return Ok(Kind::Float { bytes: 2 }),
                1 => return Ok(Kind::Float { bytes: 4 }),
                2 => return Ok(Kind::Float { bytes: 8 }),
                _ => return Err(damaged()),
            },
            5 => return Ok(Kind::Text { offset: 4 }),
            6 => return Ok(Kind::Bool),
            12 => return Ok(Kind::List { offset: 4, element: only(self)? }),
            13 => return Ok(Kind::Struct(self.fields(&children)?)),
            16 => {
                let length = usize::try_from(found.int(0).unwrap_or(0)).map_err(|_| damaged())?;
                return Ok(Kind::Fixed { length, element: only(self)? });
            }
            20 => return Ok(Kind::Text { offset: 8 }),
            21 => return Ok(Kind::List { offset: 8, element: only(self)? }),
            24 => return Ok(Kind::View),
            4 | 19 | 23 => "binary",
            7 => "decimal",
            8 => "date",
            9 => "time",
            10 => "timestamp",
            11 => "interval",
            14 => "union",
            15 => "fixed-size binary",
            17 => "map",
            18 => "duration",
            22 => "run-end encoded",
            25 | 26 => "list view",
            _ => "of an unknown number",
        };
        Err(Flaw::of_type(&self.path.join("."), other))
    }
}

fn int(found: Table<'_>) -> Option<Kind> {
    let bytes = match found.int(0)? {
        bits @ (8 | 16 | 32 | 64) => bits as usize / 8,
        _ => return None,
    };
    Some(Kind::Int { bytes, signed: found.byte(1).unwrap_or(0) != 0 })
}
