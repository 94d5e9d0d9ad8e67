//! Products on the device's thread, in order with cubecl's launches.
//!
//! cubecl's stream is private, so products run on a stream of their own, between two events of the whole context: they wait for all work
//! that was queued before, and all work that is queued later waits for them. The memory of an operand that is dropped after the call
//! is therefore not overwritten early.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;

use burn::tensor::DType;
use cubecl::server::{Binding, ComputeServer};
use cubecl_common::stream_id::StreamId;
use cudarc::cublaslt::{result as lt, sys};
use cudarc::driver::{result as cu, sys as driver};

use super::context_events::ContextEvents;
use super::server::{Server, text};
use crate::Gemm;
use crate::matrix::ALIGNMENT;

/// Bytes that algorithms may use for partial sums.
const WORKSPACE: usize = 32 << 20;

thread_local!(static QUEUE: RefCell<Option<Queue>> = const { RefCell::new(None) });

/// Opened once, on the device's thread.
pub(super) struct Queue {
    handle: sys::cublasLtHandle_t,
    context: driver::CUcontext,
    context_events: ContextEvents,
    stream: driver::CUstream,
    /// Before the products and after them.
    events: [driver::CUevent; 2],
    /// One is enough, because all products run on one stream.
    workspace: driver::CUdeviceptr,
    plans: HashMap<Gemm, Option<Plan>>,
}

/// The operation, the layouts of `B`, `A` and `D`, and the algorithm: the first that the library proposes for the shape. The
/// same algorithm gives the same bits, which one chosen by its time would not.
#[derive(Clone, Copy)]
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

fn data_type(dtype: DType) -> Option<sys::cudaDataType_t> {
    match dtype {
        DType::F32 => Some(sys::cudaDataType_t::CUDA_R_32F),
        DType::F16 => Some(sys::cudaDataType_t::CUDA_R_16F),
        DType::BF16 => Some(sys::cudaDataType_t::CUDA_R_16BF),
        _ => None,
    }
}

impl Plan {
    /// The library is column-major, where a row-major matrix is its transpose: `Dᵀ = Bᵀ Aᵀ`, so its first operand is our second.
    fn new(handle: sys::cublasLtHandle_t, gemm: &Gemm) -> Option<Self> {
        use sys::cublasLtMatmulDescAttributes_t::{CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB};
        use sys::cublasLtMatmulPreferenceAttributes_t::{
            CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        };
        let Gemm { m, n, k, transposed_a, transposed_b, operands, result } = *gemm;
        let (operands, result) = (data_type(operands)?, data_type(result)?);
        let layout = |dtype, rows: usize, columns: usize| {
            lt::create_matrix_layout(dtype, columns as u64, rows as u64, columns as i64).ok()
        };
        let a = if transposed_a { layout(operands, k, m)? } else { layout(operands, m, k)? };
        let b = if transposed_b { layout(operands, n, k)? } else { layout(operands, k, n)? };
        let d = layout(result, m, n)?;
        let in_f32 = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let operation = lt::create_matmul_desc(in_f32, sys::cudaDataType_t::CUDA_R_32F).ok()?;
        let preference = lt::create_matmul_pref().ok()?;
        // CUBLAS_OP_N or CUBLAS_OP_T
        let (transposed_a, transposed_b) = (i32::from(transposed_a), i32::from(transposed_b));
        let (workspace, alignment) = (WORKSPACE as u64, ALIGNMENT as u32);
        // SAFETY: each attribute is read at the size that it has; the descriptors are alive, and those of a plan are never destroyed.
        let found = unsafe {
            let describe = |attribute, value: &i32| {
                lt::set_matmul_desc_attribute(operation, attribute, std::ptr::from_ref(value).cast(), 4)
            };
            let prefer =
                |attribute, value: *const c_void, size| lt::set_matmul_pref_attribute(preference, attribute, value, size);
            describe(CUBLASLT_MATMUL_DESC_TRANSA, &transposed_b).ok()?;
            describe(CUBLASLT_MATMUL_DESC_TRANSB, &transposed_a).ok()?;
            prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const workspace).cast(), 8).ok()?;
            for attribute in [
                CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
            ] {
                prefer(attribute, (&raw const alignment).cast(), 4).ok()?;
            }
            let found = lt::get_matmul_algo_heuristic(handle, operation, b, a, d, d, preference);
            lt::destroy_matmul_pref(preference).ok()?;
            found.ok()?
        };
        Some(Self { operation, layouts: [b, a, d], algorithm: found.algo })
    }
}

impl Queue {
    /// Opens the library on the device whose context is current.
    pub fn open() -> Result<(), String> {
        let event = || cu::event::create(driver::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(text);
        let queue = Self {
            handle: lt::create_handle().map_err(text)?,
            context: cu::ctx::get_current().map_err(text)?.ok_or("no context is current")?,
            context_events: ContextEvents::load()?,
            stream: cu::stream::create(cu::stream::StreamKind::NonBlocking).map_err(text)?,
            events: [event()?, event()?],
            // SAFETY: it is never freed.
            workspace: unsafe { cu::malloc_sync(WORKSPACE) }.map_err(text)?,
            plans: HashMap::new(),
        };
        QUEUE.set(Some(queue));
        Ok(())
    }

    fn plan(&mut self, gemm: &Gemm) -> Option<Plan> {
        let handle = self.handle;
        *self.plans.entry(*gemm).or_insert_with(|| Plan::new(handle, gemm))
    }

    /// Queues one product. Its pointers are those of `A`, `B` and `D`.
    fn multiply(&self, plan: &Plan, [alpha, beta]: [f32; 2], [a, b, d]: [u64; 3]) -> Result<(), String> {
        let [a, b, d] = [a, b, d].map(|pointer| pointer as *mut c_void);
        let [layout_b, layout_a, layout_d] = plan.layouts;
        // SAFETY: the pointers are those of live buffers which hold what the layouts say.
        unsafe {
            lt::matmul(
                self.handle,
                plan.operation,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                b,
                layout_b,
                a,
                layout_a,
                d,
                layout_d,
                d,
                layout_d,
                &raw const plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE,
                self.stream.cast(),
            )
            .map_err(text)
        }
    }

    /// Queues products between the two events, so that they are in order with all other work of the context.
    fn between_events(&self, products: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        let [before, after] = self.events;
        // SAFETY: context, stream and events live as long as the program.
        unsafe {
            self.context_events.record(self.context, before).map_err(text)?;
            cu::stream::wait_event(self.stream, before, driver::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT).map_err(text)?;
            let done = products();
            cu::event::record(after, self.stream).map_err(text)?;
            self.context_events.wait(self.context, after).map_err(text)?;
            done
        }
    }
}

/// Whether the library computes such a product. On the device's thread.
pub(super) fn plans(gemm: &Gemm) -> bool {
    QUEUE.with_borrow_mut(|queue| queue.as_mut().is_some_and(|queue| queue.plan(gemm).is_some()))
}

/// Queues products with their factors and the buffers of `A`, `B` and `D`. On the device's thread.
pub(super) fn run(server: &mut Server, steps: Vec<(Gemm, [f32; 2], [Binding; 3])>, stream: StreamId) -> Result<(), String> {
    // No memory may go back to its pool before the second event is queued.
    let mut held = Vec::new();
    let mut ready = Vec::new();
    for (gemm, factors, bindings) in steps {
        let (mut pointers, mut sizes) = ([0; 3], Vec::new());
        for (pointer, binding) in pointers.iter_mut().zip(bindings) {
            let resource = server.get_resource(binding, stream).map_err(text)?;
            *pointer = resource.resource().ptr;
            sizes.push(resource.resource().size as usize);
            held.push(resource);
        }
        let fits = gemm.bytes().iter().zip(&sizes).all(|(needed, found)| needed <= found);
        if !fits || pointers.iter().any(|pointer| !(*pointer as usize).is_multiple_of(ALIGNMENT)) {
            return Err(format!("{gemm:?} has buffers of {sizes:?} bytes at {pointers:x?}"));
        }
        ready.push((gemm, factors, pointers));
    }
    QUEUE.with_borrow_mut(|queue| {
        let queue = queue.as_mut().ok_or("it is not open on this thread")?;
        let mut planned = Vec::new();
        for (gemm, factors, pointers) in ready {
            planned.push((queue.plan(&gemm).ok_or_else(|| format!("no algorithm for {gemm:?}"))?, factors, pointers));
        }
        queue.between_events(|| {
            planned.iter().try_for_each(|(plan, factors, pointers)| queue.multiply(plan, *factors, *pointers))
        })
    })
}
