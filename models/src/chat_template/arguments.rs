//! Positional and named arguments, as in Python.

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};

/// The arguments of a call after the first one.
pub(super) struct Arguments {
    positional: Vec<Value>,
    named: Kwargs,
}

impl Arguments {
    /// Separates positional from named arguments.
    pub(super) fn new(mut positional: Vec<Value>) -> Result<Self, Error> {
        let named = match positional.pop_if(|last| last.is_kwargs()) {
            Some(named) => Kwargs::try_from(named)?,
            None => std::iter::empty::<(String, Value)>().collect(),
        };
        Ok(Self { positional, named })
    }

    /// The argument at a position or with a name; `None` if it is absent or None.
    pub(super) fn get(&self, position: usize, name: &str) -> Result<Option<Value>, Error> {
        let value = match self.positional.get(position) {
            Some(value) => Some(value.clone()),
            None => self.named.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
    }

    /// Refuses more than `most` positional arguments, and named ones that were not read.
    pub(super) fn end(&self, most: usize) -> Result<(), Error> {
        if self.positional.len() > most {
            let reason = format!("expected at most {most} arguments, got {}", self.positional.len());
            return Err(Error::new(ErrorKind::TooManyArguments, reason));
        }
        self.named.assert_all_used()
    }
}
