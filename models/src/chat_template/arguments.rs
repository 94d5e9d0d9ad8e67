//! Arguments by place or by name, as Python's functions take them.

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};

/// The arguments of a call after the first.
pub(super) struct Arguments {
    places: Vec<Value>,
    named: Kwargs,
}

impl Arguments {
    /// Tells those with a name from the others.
    pub(super) fn new(mut places: Vec<Value>) -> Result<Self, Error> {
        let named = match places.pop_if(|last| last.is_kwargs()) {
            Some(named) => Kwargs::try_from(named)?,
            None => std::iter::empty::<(String, Value)>().collect(),
        };
        Ok(Self { places, named })
    }

    /// The argument at a place or under a name; None is as good as absent.
    pub(super) fn get(&self, place: usize, name: &str) -> Result<Option<Value>, Error> {
        let value = match self.places.get(place) {
            Some(value) => Some(value.clone()),
            None => self.named.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
    }

    /// Refuses arguments that nothing has asked for.
    pub(super) fn end(&self, places: usize) -> Result<(), Error> {
        if self.places.len() > places {
            let reason = format!("{} arguments, and at most {places} are known", self.places.len());
            return Err(Error::new(ErrorKind::TooManyArguments, reason));
        }
        self.named.assert_all_used()
    }
}
