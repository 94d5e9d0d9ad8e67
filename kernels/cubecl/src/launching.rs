use core::ops::Deref;

use upstream::Runtime;
use upstream::client::ComputeClient;
use upstream::features::Features;
use upstream::ir::DeviceProperties;

/// A client as launches take it, from [`launching`].
pub struct LaunchClient<R: Runtime> {
    client: ComputeClient<R>,
    few: Option<DeviceProperties>,
}

/// The client for one launch: its properties are those of the device without its features. A clone of it, as the launched kernel keeps
/// one until it is compiled, has all.
pub fn launching<R: Runtime>(client: &ComputeClient<R>) -> LaunchClient<R> {
    let all = client.properties();
    let few = DeviceProperties::new(Features::default(), all.memory.clone(), all.hardware.clone(), all.timing_method);
    LaunchClient { client: client.clone(), few: Some(few) }
}

impl<R: Runtime> LaunchClient<R> {
    /// What the device can do, for the one who holds this client: see [`launching`].
    pub fn properties(&self) -> &DeviceProperties {
        self.few.as_ref().unwrap_or_else(|| self.client.properties())
    }
}

impl<R: Runtime> Clone for LaunchClient<R> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), few: None }
    }
}

impl<R: Runtime> Deref for LaunchClient<R> {
    type Target = ComputeClient<R>;

    fn deref(&self) -> &ComputeClient<R> {
        &self.client
    }
}
