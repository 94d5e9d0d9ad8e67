//! The candidates that were chosen for a device, and notes on the products that it computes.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use cubecl::device::{Device, DeviceId};

use super::call::Call;
use super::candidate::Candidate;
use super::class::ProductClass;
use super::plan::Extents;
use super::sketch::Sketch;
use crate::products::DEFAULT_CANDIDATE;
use crate::runtime::KernelRuntime;

/// Whether anything was chosen or noted for a device: until then, products look nowhere.
static IN_USE: AtomicBool = AtomicBool::new(false);

/// A [`State`] for each runtime and device.
static DEVICES: LazyLock<Mutex<HashMap<(TypeId, DeviceId), Box<dyn Any + Send>>>> = LazyLock::new(Mutex::default);

/// What is known about the products of a device.
struct State<R: KernelRuntime> {
    /// Names of candidates, by class.
    chosen: BTreeMap<String, String>,
    /// Those that were looked up.
    found: HashMap<ProductClass, Candidate>,
    /// Products, since they are noted.
    noted: Option<HashMap<ProductClass, Noted<R>>>,
}

impl<R: KernelRuntime> Default for State<R> {
    fn default() -> Self {
        Self { chosen: BTreeMap::new(), found: HashMap::new(), noted: None }
    }
}

/// The largest product of a class, and how often one was computed.
pub(super) struct Noted<R: KernelRuntime> {
    pub class: ProductClass,
    pub sketch: Sketch<R>,
    pub runs: usize,
}

fn with<R: KernelRuntime, T>(device: &R::Device, work: impl FnOnce(&mut State<R>) -> T) -> Option<T> {
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let state = devices.entry((TypeId::of::<R>(), device.to_id())).or_insert_with(|| Box::new(State::<R>::default()));
    state.downcast_mut().map(work)
}

/// Computes products of these classes by these candidates from now on, and all others by the plan.
pub(crate) fn choose<R: KernelRuntime>(device: &R::Device, chosen: &BTreeMap<String, String>) {
    with::<R, _>(device, |state| *state = State { chosen: chosen.clone(), ..State::default() });
    IN_USE.fetch_or(!chosen.is_empty(), Ordering::Relaxed);
}

/// Notes the products of a device from now on.
pub(crate) fn note<R: KernelRuntime>(device: &R::Device) {
    with::<R, _>(device, |state| state.noted = Some(HashMap::new()));
    IN_USE.store(true, Ordering::Relaxed);
}

/// The products that were noted, which ends that.
pub(super) fn noted<R: KernelRuntime>(device: &R::Device) -> Vec<Noted<R>> {
    let noted = with::<R, _>(device, |state| state.noted.take());
    noted.flatten().into_iter().flatten().map(|(_, noted)| noted).collect()
}

/// The candidate for a product.
pub(super) fn candidate<R: KernelRuntime>(call: &Call<R>) -> Candidate {
    if !IN_USE.load(Ordering::Relaxed) {
        return Candidate::DEFAULT;
    }
    let class = call.class();
    let found = with::<R, _>(&call.product.a.device, |state| {
        if let Some(noted) = &mut state.noted {
            let noted = noted.entry(class).or_insert_with(|| Noted { class, sketch: Sketch::of(call), runs: 0 });
            noted.runs += 1;
            let tokens = |extents: Extents| if class.transposed_a { extents.k } else { extents.m };
            if tokens(call.extents) > tokens(noted.sketch.extents) {
                noted.sketch = Sketch::of(call);
            }
        }
        *state.found.entry(class).or_insert_with(|| named(call, &class.to_string(), &state.chosen))
    });
    found.unwrap_or(Candidate::DEFAULT)
}

/// The candidate whose name was chosen for a class.
fn named<R: KernelRuntime>(call: &Call<R>, class: &str, chosen: &BTreeMap<String, String>) -> Candidate {
    let Some(name) = chosen.get(class).filter(|name| *name != DEFAULT_CANDIDATE) else { return Candidate::DEFAULT };
    let found = call.candidates().into_iter().find(|candidate| candidate.to_string() == *name);
    found.unwrap_or_else(|| {
        tracing::warn!("products {class} are computed by the plan: the device has no `{name}`");
        Candidate::DEFAULT
    })
}
