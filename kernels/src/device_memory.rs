//! The memory of a device, as a backend reports it.

/// Memory of a device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Of live tensors.
    pub in_use: u64,
    /// Allocated from the device, including what is kept for later tensors.
    pub reserved: u64,
    /// Of the whole device, where the backend knows.
    pub total: Option<u64>,
}

/// Reads the memory of a device, while another thread queues work on it.
pub type MemoryProbe = Box<dyn Fn() -> Option<DeviceMemory> + Send>;
