//! How every part of a node follows the API: list, watch, and each object decoded once, from its own
//! text; how a loop that does so runs again after it ended; and how slowly pods are turned away whose
//! owners replace them at once.

mod own_text;
mod pace;
mod packed;
pub mod restart;

pub use own_text::OwnText;
pub use pace::Pace;
pub use packed::Packed;
pub use restart::keep_running;

use std::fmt::Debug;

use futures::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// The objects of `api` that `config` selects: all there are, then each change. A watch that breaks
/// is begun anew, ever more slowly while it keeps failing; what happened meanwhile is not missed.
pub fn follow<K>(
    api: Api<OwnText<K>>,
    config: watcher::Config,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let events = watcher::watcher(api, config).default_backoff();
    events.map(|event| event.map(bare))
}

fn bare<K>(event: Event<OwnText<K>>) -> Event<K> {
    match event {
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(object.0),
        Event::InitDone => Event::InitDone,
        Event::Apply(object) => Event::Apply(object.0),
        Event::Delete(object) => Event::Delete(object.0),
    }
}
