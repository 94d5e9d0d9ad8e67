//! The kernels in WGSL, which wgpu uses where it supports neither MSL nor SPIR-V: in browsers, and on DirectX.

use std::sync::Once;

use burn_cubecl::CubeBackend;
use burnish_kernels::KernelRuntime;
use cubecl_common::device::{Device, DeviceService};
use cubecl_common::profile::TimingMethod;
use cubecl_core::Runtime;
use cubecl_core::client::ComputeClient;
use cubecl_core::server::{ComputeServer, ServerUtilities};
use cubecl_ir::features::{AtomicUsage, Features, Plane, TypeUsage};
use cubecl_ir::{AddressType, DeviceProperties, ElemType, FloatKind, IntKind, StorageType, Type, UIntKind};
use cubecl_runtime::allocator::ContiguousMemoryLayoutPolicy;
use cubecl_runtime::memory_management::MemoryConfiguration;
use cubecl_wgpu::{AutoCompiler, AutoGraphicsApi, RuntimeOptions, WgpuDevice, WgpuRuntime, WgpuServer, init_setup};

/// burn on [`WgslRuntime`].
pub type Wgsl = CubeBackend<WgslRuntime, f32, i32, u32>;

/// wgpu's runtime on the same device, restricted to WGSL.
#[derive(Debug, Clone)]
pub struct WgslRuntime;

impl Runtime for WgslRuntime {
    type Compiler = AutoCompiler;
    type Server = WgpuServer;
    type Device = WgpuDevice;

    fn client(_: &Self::Device) -> ComputeClient<Self> {
        static BEGIN: Once = Once::new();
        let own = WgpuDevice::Existing(0);
        BEGIN.call_once(|| drop(ComputeClient::<Self>::init(&own, server())));
        ComputeClient::load(&own)
    }

    fn name(_: &ComputeClient<Self>) -> &'static str {
        "wgsl"
    }

    burnish_kernels::runtime_from!(WgpuRuntime);
}

impl KernelRuntime for WgslRuntime {
    const FUSED: bool = true;
}

/// A server whose empty compilation options select WGSL.
fn server() -> WgpuServer {
    let setup = init_setup::<AutoGraphicsApi>(&WgpuDevice::DefaultDevice, RuntimeOptions::default());
    let full = <WgpuServer as DeviceService>::init(WgpuDevice::DefaultDevice.to_id());
    let full = ComputeServer::utilities(&full);
    let memory = full.properties.memory.clone();
    let policy = ContiguousMemoryLayoutPolicy::new(memory.alignment as usize);
    let properties = properties(&setup.adapter, &full.properties);
    WgpuServer::new(
        memory,
        MemoryConfiguration::default(),
        Default::default(),
        setup.device.clone(),
        setup.queue.clone(),
        32,
        setup.backend,
        TimingMethod::System,
        ServerUtilities::new(properties, full.logger.clone(), full.info, policy),
    )
}

/// The properties that cubecl's own WGSL path registers (`cubecl_wgpu::backend::wgsl` of 0.10).
fn properties(adapter: &wgpu::Adapter, full: &DeviceProperties) -> DeviceProperties {
    let mut own =
        DeviceProperties::new(Features::default(), full.memory.clone(), full.hardware.clone(), TimingMethod::System);
    own.register_address_type(AddressType::U32);
    let (int, uint) = (ElemType::Int(IntKind::I32), ElemType::UInt(UIntKind::U32));
    for kind in [int, uint, ElemType::Float(FloatKind::F32), ElemType::Float(FloatKind::Flex32), ElemType::Bool] {
        own.register_type_usage(kind, TypeUsage::all());
    }
    for kind in [int, uint] {
        own.register_atomic_type_usage(Type::new(StorageType::Atomic(kind)), AtomicUsage::LoadStore | AtomicUsage::Add);
    }
    if adapter.features().contains(wgpu::Features::SHADER_F16) {
        own.register_type_usage(ElemType::Float(FloatKind::F16), TypeUsage::all());
    }
    let is_cpu = adapter.get_info().device_type == wgpu::DeviceType::Cpu;
    if adapter.features().contains(wgpu::Features::SUBGROUP) && !is_cpu {
        own.features.plane.insert(Plane::Ops);
    }
    own
}
