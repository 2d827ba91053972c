//! Events are forgotten after a while, as upstream's time-to-live does.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use store::{Action, Durability, Record};

use crate::meta::{self, Meta};
use crate::render;
use crate::server::ApiServer;

/// How often old ones are looked for at most (unless they are kept for less), and at least while
/// there are any.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));
/// The newest of so many Events are kept, whatever their age.
const MAX_EVENTS: usize = 5000;

impl ApiServer {
    /// Removes old Events for ever; to be run as a task. Without Events it sleeps until there is
    /// one.
    pub async fn expire_events(self: Arc<Self>) {
        let Some(resource) = self.catalog.stored("", "events") else { return };
        let ttl = self.config.event_ttl;
        let keep = SignedDuration::try_from(ttl).unwrap_or(SignedDuration::MAX);
        loop {
            // Subscribed before the look, so that no Event is missed in between.
            let watch = self.store.watch(&meta::prefix(resource, ""), 0);
            let now = Timestamp::now();
            let cutoff = now.saturating_sub(keep).unwrap_or(Timestamp::MIN);
            match (self.expire_events_before(cutoff).await, watch) {
                (Some(oldest), _) => {
                    let due = oldest.duration_since(cutoff);
                    let due = Duration::try_from(due).unwrap_or_default();
                    tokio::time::sleep(due.clamp(INTERVAL.0.min(ttl), INTERVAL.1)).await;
                }
                (None, Ok(mut watch)) => watch.changed().await,
                (None, Err(_)) => tokio::time::sleep(INTERVAL.1).await,
            }
        }
    }

    /// Returns when the oldest of those that stay last happened.
    pub(crate) async fn expire_events_before(&self, cutoff: Timestamp) -> Option<Timestamp> {
        let resource = self.catalog.stored("", "events")?;
        let mut oldest: Option<Timestamp> = None;
        let page = self.store.list(&meta::prefix(resource, ""), None, 0);
        let mut kept: Vec<Arc<Record<Meta>>> = Vec::new();
        for record in page.records {
            let seen = render::parse(&record).map_or(cutoff, |event| last_seen(&event));
            if seen < cutoff {
                self.remove(&record).await;
            } else {
                oldest = Some(oldest.map_or(seen, |oldest| oldest.min(seen)));
                kept.push(record);
            }
        }
        kept.sort_by_key(|record| record.revision);
        let surplus = kept.len().saturating_sub(MAX_EVENTS);
        for record in &kept[..surplus] {
            self.remove(record).await;
        }
        oldest
    }

    async fn remove(&self, record: &Arc<Record<Meta>>) {
        let result = self
            .store
            .write(&record.key, Durability::Lazy, |current, _| {
                Ok::<_, ()>(match current {
                    Some(current) if current.revision == record.revision => {
                        Action::Delete { value: record.value.clone(), meta: record.meta.clone() }
                    }
                    _ => Action::Keep,
                })
            })
            .await;
        if result.is_err() {
            tracing::warn!(key = %record.key, "an old event could not be removed");
        }
    }
}

fn last_seen(event: &Value) -> Timestamp {
    let times = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    times
        .into_iter()
        .filter_map(|t| t.as_str()?.parse::<Timestamp>().ok())
        .max()
        .unwrap_or(Timestamp::UNIX_EPOCH)
}
