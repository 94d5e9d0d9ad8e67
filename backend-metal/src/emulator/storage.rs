//! Host memory in place of the device's: each allocation lies between guard zones that belong to no buffer.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashMap;

use cubecl_common::backtrace::BackTrace;
use cubecl_core::server::IoError;
use cubecl_runtime::storage::{ComputeStorage, StorageHandle, StorageId, StorageUtilization};

/// The alignment that cubecl requires; Metal aligns buffers to pages.
const ALIGNMENT: usize = 256;
/// An access beyond a buffer by less than this hits no other buffer.
const GUARD: usize = 64 * 1024;

/// Every allocation of the emulated device.
#[derive(Default)]
pub struct GuardedStorage {
    memory: HashMap<StorageId, Allocation>,
}

struct Allocation {
    start: *mut u8,
    layout: Layout,
}

// SAFETY: the storage owns the pointers, and nothing else keeps them beyond a call of the server.
unsafe impl Send for GuardedStorage {}

/// A part of an allocation.
#[derive(Debug)]
pub struct GuardedResource {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: as above: a resource is used by the server's thread while the storage keeps its allocation.
unsafe impl Send for GuardedResource {}

impl GuardedResource {
    /// Its address and its length in bytes.
    pub fn span(&self) -> (*mut u8, usize) {
        (self.start, self.bytes)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the storage keeps the allocation; only the server reads and writes it, one call at a time.
        unsafe { core::slice::from_raw_parts(self.start, self.bytes) }
    }

    /// Its bytes, for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.bytes) }
    }
}

impl ComputeStorage for GuardedStorage {
    type Resource = GuardedResource;

    fn alignment(&self) -> usize {
        ALIGNMENT
    }

    fn get(&mut self, handle: &StorageHandle) -> GuardedResource {
        let utilization = &handle.utilization;
        let allocation = &self.memory[&handle.id];
        // SAFETY: the memory manager returns parts of what it has allocated.
        let start = unsafe { allocation.start.add(GUARD + utilization.offset as usize) };
        GuardedResource { start, bytes: utilization.size as usize }
    }

    fn alloc(&mut self, size: u64) -> Result<StorageHandle, IoError> {
        let too_big = || IoError::BufferTooBig { size, backtrace: BackTrace::capture() };
        let bytes = usize::try_from(size).ok().and_then(|bytes| bytes.checked_add(2 * GUARD)).ok_or_else(too_big)?;
        let layout = Layout::from_size_align(bytes, ALIGNMENT).map_err(|_| too_big())?;
        // SAFETY: the layout has at least the size of the guards.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            return Err(too_big());
        }
        let id = StorageId::new();
        self.memory.insert(id, Allocation { start, layout });
        Ok(StorageHandle { id, utilization: StorageUtilization { offset: 0, size } })
    }

    fn dealloc(&mut self, id: StorageId) {
        if let Some(Allocation { start, layout }) = self.memory.remove(&id) {
            // SAFETY: allocated above with this layout, and removed from the table, so that it is freed once.
            unsafe { dealloc(start, layout) };
        }
    }

    fn flush(&mut self) {}
}

impl Drop for GuardedStorage {
    fn drop(&mut self) {
        for id in self.memory.keys().copied().collect::<Vec<_>>() {
            self.dealloc(id);
        }
    }
}
