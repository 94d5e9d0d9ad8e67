//! The columns of a Parquet file, as a tree.

use std::ops::Range;

use super::thrift::Value;
use crate::source::flaw::Flaw;

/// Columns that are nested deeper are refused.
const MAX_DEPTH: usize = 32;

/// What the values of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    /// Of 4 or 8 bytes.
    Int {
        bytes: usize,
        signed: bool,
    },
    /// Of 2, 4 or 8 bytes.
    Float {
        bytes: usize,
    },
    Text,
    /// Text that is JSON.
    Json,
    /// Nothing but null.
    Null,
}

/// A column.
#[derive(Debug)]
pub(super) struct Column {
    /// Its names, from the top.
    pub(super) path: Vec<String>,
    pub(super) kind: Kind,
    /// Levels of a value that is not null, and of one in the innermost list.
    pub(super) max_definition: u32,
    pub(super) max_repetition: u32,
}

impl Column {
    pub(super) fn name(&self) -> String {
        self.path.join(".")
    }
}

/// A part of the tree.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// The lowest definition level at which it is not null.
    pub(super) definition: u32,
    /// Its columns.
    pub(super) columns: Range<usize>,
    pub(super) shape: Shape,
}

/// What a part of the tree holds.
#[derive(Debug)]
pub(super) enum Shape {
    Column,
    Struct(Vec<Node>),
    List {
        /// The lowest definition level at which there is an element, and the repetition level of all elements but the first.
        definition: u32,
        repetition: u32,
        element: Box<Node>,
    },
}

/// The tree and its columns.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) fields: Vec<Node>,
    pub(super) columns: Vec<Column>,
}

impl Schema {
    /// Reads the elements of a file's header.
    ///
    /// # Errors
    /// If they are damaged, or a column has another type.
    pub(super) fn read(elements: &[Value<'_>]) -> Result<Self, Flaw> {
        let Some((root, elements)) = elements.split_first() else { return Err(Flaw::damaged("it has no schema")) };
        let mut reader = Reader { elements: elements.iter(), columns: Vec::new(), path: Vec::new() };
        let fields = reader.children(root, Levels::default())?;
        if reader.elements.next().is_some() {
            return Err(Flaw::damaged("its schema has more columns than it announces"));
        }
        for (at, field) in fields.iter().enumerate() {
            if fields[..at].iter().any(|other| other.name == field.name) {
                return Err(Flaw::damaged(format!("two columns are named `{}`", field.name)));
            }
        }
        Ok(Self { fields, columns: reader.columns })
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Levels {
    definition: u32,
    repetition: u32,
}

struct Reader<'a, 'b> {
    elements: std::slice::Iter<'a, Value<'b>>,
    columns: Vec<Column>,
    path: Vec<String>,
}

// Fields of an element of the schema.
const TYPE: i64 = 1;
const TYPE_LENGTH: i64 = 2;
const REPETITION: i64 = 3;
const NAME: i64 = 4;
const CHILDREN: i64 = 5;
const CONVERTED: i64 = 6;
const LOGICAL: i64 = 10;

const OPTIONAL: i64 = 1;
const REPEATED: i64 = 2;

impl<'a, 'b> Reader<'a, 'b> {
    fn next(&mut self) -> Result<&'a Value<'b>, Flaw> {
        self.elements.next().ok_or_else(|| Flaw::damaged("its schema has fewer columns than it announces"))
    }

    fn children(&mut self, of: &Value<'_>, levels: Levels) -> Result<Vec<Node>, Flaw> {
        let count = of.count(CHILDREN).filter(|count| *count > 0);
        let count = count.ok_or_else(|| Flaw::damaged(format!("`{}` has no columns", self.path.join("."))))?;
        let mut children = Vec::new();
        for _ in 0..count {
            let element = self.next()?;
            children.push(self.node(element, levels)?);
        }
        Ok(children)
    }

    /// The part of the tree that begins with an element.
    fn node(&mut self, element: &Value<'_>, levels: Levels) -> Result<Node, Flaw> {
        if self.path.len() >= MAX_DEPTH {
            return Err(Flaw::damaged(format!("its columns are nested deeper than {MAX_DEPTH}")));
        }
        let name = element.text(NAME).ok_or_else(|| Flaw::damaged("a column has no name"))?;
        self.path.push(name.to_owned());
        let start = self.columns.len();
        let node = match element.int(REPETITION) {
            // Old writers write lists as repeated columns.
            Some(REPEATED) => self.repeated(element, levels, |reader, within| reader.content(element, within)),
            Some(OPTIONAL) => self.content(element, Levels { definition: levels.definition + 1, ..levels }),
            _ => self.content(element, levels),
        };
        self.path.pop();
        let (definition, shape) = node?;
        Ok(Node { name: name.to_owned(), definition, columns: start..self.columns.len(), shape })
    }

    /// A list whose elements are repeated at these levels.
    fn repeated(
        &mut self,
        element: &Value<'_>,
        levels: Levels,
        content: impl FnOnce(&mut Self, Levels) -> Result<(u32, Shape), Flaw>,
    ) -> Result<(u32, Shape), Flaw> {
        let within = Levels { definition: levels.definition + 1, repetition: levels.repetition + 1 };
        let start = self.columns.len();
        let (definition, shape) = content(self, within)?;
        let name = element.text(NAME).unwrap_or_default().to_owned();
        let element = Box::new(Node { name, definition, columns: start..self.columns.len(), shape });
        let list = Shape::List { definition: within.definition, repetition: within.repetition, element };
        Ok((levels.definition, list))
    }

    /// What an element holds, whose own levels are known.
    fn content(&mut self, element: &Value<'_>, levels: Levels) -> Result<(u32, Shape), Flaw> {
        let name = self.path.join(".");
        if element.field(TYPE).is_some() {
            let kind = kind(element).map_err(|kind| Flaw::of_type(&name, kind))?;
            let Levels { definition, repetition } = levels;
            let path = self.path.clone();
            self.columns.push(Column { path, kind, max_definition: definition, max_repetition: repetition });
            return Ok((levels.definition, Shape::Column));
        }
        match (element.int(CONVERTED), logical(element)) {
            (Some(3), _) | (_, Some(3)) => self.list(element, levels),
            (Some(1 | 2), _) | (_, Some(2)) => Err(Flaw::of_type(&name, "map")),
            (_, Some(16)) => Err(Flaw::of_type(&name, "variant")),
            _ => Ok((levels.definition, Shape::Struct(self.children(element, levels)?))),
        }
    }

    /// A list: a group with a repeated element, which either is the element of the list or holds it.
    fn list(&mut self, element: &Value<'_>, levels: Levels) -> Result<(u32, Shape), Flaw> {
        let name = self.path.join(".");
        let repeated = self.next()?;
        if element.count(CHILDREN) != Some(1) || repeated.int(REPETITION) != Some(REPEATED) {
            return Err(Flaw::damaged(format!("the list `{name}` has no elements")));
        }
        let inner = repeated.text(NAME).unwrap_or_default();
        let own = self.path.last().map_or(String::new(), |name| format!("{name}_tuple"));
        let is_element =
            repeated.field(TYPE).is_some() || repeated.count(CHILDREN) != Some(1) || inner == "array" || inner == own;
        self.path.push(inner.to_owned());
        let list = self.repeated(repeated, levels, |reader, within| {
            if is_element {
                return reader.content(repeated, within);
            }
            let element = reader.next()?;
            let node = reader.node(element, within)?;
            Ok((node.definition, node.shape))
        });
        self.path.pop();
        list
    }
}

/// The number of the logical type.
fn logical(element: &Value<'_>) -> Option<i64> {
    match element.field(LOGICAL)? {
        Value::Struct(fields) => fields.first().map(|(number, _)| *number),
        _ => None,
    }
}

/// What the values of a column are, or the name of their type if it is not supported.
fn kind(element: &Value<'_>) -> Result<Kind, &'static str> {
    let (converted, logical) = (element.int(CONVERTED), logical(element));
    match (logical, converted) {
        (Some(11), _) => return Ok(Kind::Null),
        (Some(5), _) | (_, Some(5)) => return Err("decimal"),
        (Some(6), _) | (_, Some(6)) => return Err("date"),
        (Some(7), _) | (_, Some(7 | 8)) => return Err("time"),
        (Some(8), _) | (_, Some(9 | 10)) => return Err("timestamp"),
        (Some(13), _) | (_, Some(20)) => return Err("bson"),
        (Some(14), _) => return Err("uuid"),
        (Some(17 | 18), _) => return Err("geometry"),
        (_, Some(21)) => return Err("interval"),
        _ => {}
    }
    let int = |bytes: usize| {
        let unsigned = matches!(converted, Some(11..=14));
        let of_logical = element.field(LOGICAL).and_then(|logical| logical.field(10)).and_then(|int| int.flag(2));
        Kind::Int { bytes, signed: of_logical.unwrap_or(!unsigned) }
    };
    match element.int(TYPE) {
        Some(0) => Ok(Kind::Bool),
        Some(1) => Ok(int(4)),
        Some(2) => Ok(int(8)),
        Some(3) => Err("timestamp"),
        Some(4) => Ok(Kind::Float { bytes: 4 }),
        Some(5) => Ok(Kind::Float { bytes: 8 }),
        Some(6) if logical == Some(12) || converted == Some(19) => Ok(Kind::Json),
        Some(6) if matches!(logical, Some(1 | 4)) || matches!(converted, Some(0 | 4)) => Ok(Kind::Text),
        Some(6) => Err("binary"),
        Some(7) if logical == Some(15) && element.int(TYPE_LENGTH) == Some(2) => Ok(Kind::Float { bytes: 2 }),
        Some(7) => Err("fixed-size binary"),
        _ => Err("of an unknown number"),
    }
}
