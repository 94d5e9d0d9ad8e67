//! The properties of the emulated device: those that cubecl-wgpu 0.10 reports for an Apple GPU.
//!
//! Source: `backend/metal.rs` and `runtime.rs` of cubecl-wgpu 0.10.

use cubecl_common::profile::TimingMethod;
use cubecl_cpp::metal::MslDialect;
use cubecl_cpp::metal::arch::MetalArchitecture;
use cubecl_cpp::shared::register_wmma_features;
use cubecl_cpp::{DialectWmmaCompiler, MslCompiler};
use cubecl_ir::features::{AtomicUsage, Plane, TypeUsage};
use cubecl_ir::{
    AddressType, DeviceProperties, ElemType, FloatKind, HardwareProperties, IntKind, MemoryDeviceProperties, StorageType,
    Type, UIntKind,
};

/// Bytes of threadgroup memory of every Apple GPU.
pub const THREADGROUP_BYTES: usize = 32 * 1024;
/// Buffers that a Metal kernel may have, less the one that wgpu reserves.
pub const MAX_BUFFERS: u32 = 30;

/// The compiler, so that other crates need not depend on cubecl-cpp.
pub type Compiler = MslCompiler;

/// The properties of a device of the Metal 3 family.
pub fn device_properties() -> DeviceProperties {
    let hardware = HardwareProperties {
        load_width: 128,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: MAX_BUFFERS,
        max_shared_memory_size: THREADGROUP_BYTES,
        max_cube_count: (65535, 65535, 65535),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 1024),
        num_streaming_multiprocessors: None,
        num_tensor_cores: None,
        min_tensor_cores_dim: None,
        num_cpu_cores: None,
        max_vector_size: 4,
    };
    let memory = MemoryDeviceProperties { max_page_size: 1 << 30, alignment: 256 };
    let mut properties = DeviceProperties::new(Default::default(), memory, hardware, TimingMethod::System);
    properties.register_address_type(AddressType::U32);
    properties.register_address_type(AddressType::U64);
    let types = [
        ElemType::UInt(UIntKind::U8),
        ElemType::UInt(UIntKind::U16),
        ElemType::UInt(UIntKind::U32),
        ElemType::UInt(UIntKind::U64),
        ElemType::Int(IntKind::I8),
        ElemType::Int(IntKind::I16),
        ElemType::Int(IntKind::I32),
        ElemType::Int(IntKind::I64),
        ElemType::Float(FloatKind::F16),
        ElemType::Float(FloatKind::F32),
        ElemType::Bool,
    ];
    for kind in types {
        properties.register_type_usage(kind, TypeUsage::all());
    }
    for kind in [
        ElemType::Int(IntKind::I32),
        ElemType::UInt(UIntKind::U32),
        ElemType::UInt(UIntKind::U64),
        ElemType::Float(FloatKind::F32),
    ] {
        let atomic = Type::new(StorageType::Atomic(kind));
        properties.register_atomic_type_usage(atomic, AtomicUsage::Add | AtomicUsage::LoadStore);
    }
    register_wmma_features(MslDialect::supported_wmma_combinations(&MetalArchitecture::Metal3), &mut properties);
    properties.features.alignment = true;
    for plane in [Plane::NonUniformControlFlow, Plane::Ops, Plane::Sync] {
        properties.features.plane.insert(plane);
    }
    properties
}
