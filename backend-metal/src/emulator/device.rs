//! The devices of the emulator.

use std::sync::OnceLock;

use cubecl_common::device::{Device, DeviceId};

/// An emulated GPU. Devices differ in what they check; `BURNISH_EMULATOR_DEVICE` names the default one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EmulatorDevice {
    /// Repairs the text and finds races; threads run in order of their numbers.
    Checked,
    /// As [`Self::Checked`], with threads that run from the last to the first.
    Reversed,
    /// As [`Self::Checked`], with threads that run in an order that changes at each step.
    Shuffled,
    /// Finds no races: faster.
    Quick,
    /// As [`Self::Checked`], but runs the text as cubecl emits it.
    Unrepaired,
    /// As [`Self::Checked`], with Metal 4's tensor operations, as an M5 has them.
    Units,
    /// As [`Self::Units`], but its operations leave a term out of some sums: for tests.
    WrongUnits,
    /// As [`Self::Units`], but its compiler does not know the operations: for tests.
    UnknownUnits,
}

/// The order in which threads of a threadgroup run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ThreadOrder {
    Forward,
    Backward,
    Shuffled,
}

impl ThreadOrder {
    pub fn number(self) -> u32 {
        match self {
            Self::Forward => 0,
            Self::Backward => 1,
            Self::Shuffled => 20_240_817,
        }
    }
}

impl EmulatorDevice {
    const ALL: [Self; 8] = [
        Self::Checked,
        Self::Reversed,
        Self::Shuffled,
        Self::Quick,
        Self::Unrepaired,
        Self::Units,
        Self::WrongUnits,
        Self::UnknownUnits,
    ];

    /// Whether it says that it has tensor operations.
    pub(super) fn has_tensor_operations(self) -> bool {
        matches!(self, Self::Units | Self::WrongUnits | Self::UnknownUnits)
    }

    /// The text as this device's compiler finds it: with the header of its tensor operations.
    pub(super) fn text(self, source: String) -> String {
        const HEADER: &str = "<MetalPerformancePrimitives/MetalPerformancePrimitives.h>";
        match self {
            Self::WrongUnits => source.replacen(HEADER, "<MetalPerformancePrimitives/wrong.h>", 1),
            Self::UnknownUnits => source.replacen(HEADER, "<MetalPerformancePrimitives/unknown.h>", 1),
            _ => source,
        }
    }

    pub(super) fn order(self) -> ThreadOrder {
        match self {
            Self::Reversed => ThreadOrder::Backward,
            Self::Shuffled => ThreadOrder::Shuffled,
            _ => ThreadOrder::Forward,
        }
    }
}

impl Default for EmulatorDevice {
    fn default() -> Self {
        static NAMED: OnceLock<EmulatorDevice> = OnceLock::new();
        *NAMED.get_or_init(|| match std::env::var("BURNISH_EMULATOR_DEVICE").as_deref() {
            Ok("reversed") => Self::Reversed,
            Ok("shuffled") => Self::Shuffled,
            Ok("quick") => Self::Quick,
            Ok("unrepaired") => Self::Unrepaired,
            Ok("units") => Self::Units,
            _ => Self::Checked,
        })
    }
}

impl Device for EmulatorDevice {
    fn from_id(id: DeviceId) -> Self {
        Self::ALL.get(usize::from(id.index_id)).copied().unwrap_or_default()
    }

    fn to_id(&self) -> DeviceId {
        let index = Self::ALL.iter().position(|device| device == self).unwrap_or_default();
        DeviceId { type_id: 0, index_id: index as u16 }
    }
}

impl burn_backend::DeviceOps for EmulatorDevice {}
