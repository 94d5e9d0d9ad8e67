//! The macro that makes the struct, the flags, the file and their documentation from one table.

use burnish_lora::{Init, TargetModules};

use crate::data::LengthPolicy;

use super::choice::{FineTuneType, LossType, LrScheduler, OptimizerKind, QuantizationKind, Recipe, Tune};
use super::report_to::ReportTo;

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`; as a flag `--key` or `--no-key`.
    Bool,
    /// A whole number.
    Integer,
    /// A number.
    Float,
    /// A string.
    Text,
    /// A string, or a list of strings; as a flag, separated by commas.
    Texts,
}

/// A key of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name, in snake case.
    pub name: &'static str,
    /// The heading it is listed under.
    pub section: &'static str,
    /// What it does.
    pub help: &'static str,
    /// The type of its value.
    pub kind: Kind,
}

impl Key {
    /// The flag: the same word in kebab case.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }
}

/// Rust types that a key may have.
pub trait ConfigValue {
    /// The corresponding kind.
    const KIND: Kind;
}

macro_rules! kinds {
    ($($type:ty => $kind:ident),* $(,)?) => {
        $(impl ConfigValue for $type { const KIND: Kind = Kind::$kind; })*
    };
}

kinds! {
    bool => Bool, usize => Integer, u64 => Integer, f64 => Float, String => Text, Option<String> => Text,
    Recipe => Text, LossType => Text, FineTuneType => Text, LrScheduler => Text, OptimizerKind => Text, QuantizationKind => Text, TargetModules => Texts,
    Init => Text, ReportTo => Texts, LengthPolicy => Text, Tune => Text,
}

/// Declares the configuration: sections of keys, each with its documentation, type and default.
macro_rules! config {
    (
        $(#[$outer:meta])*
        pub struct $name:ident {
            $($section:literal {
                $(#[doc = $help:literal] $key:ident : $type:ty = $default:expr,)*
            })*
        }
    ) => {
        $(#[$outer])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[doc = $help] pub $key: $type,)*)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($($key: $default,)*)* }
            }
        }

        impl $name {
            /// Every key, in the order of the documentation.
            pub const KEYS: &'static [Key] = &[
                $($(Key {
                    name: stringify!($key),
                    section: $section,
                    help: $help,
                    kind: <$type as ConfigValue>::KIND,
                },)*)*
            ];
        }
    };
}

pub(super) use config;
