//! Events are forgotten after a while, as upstream's time-to-live does.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use store::{Action, Durability, Record};

use crate::meta::{self, Meta};
use crate::render;
use crate::server::ApiServer;

/// How long an Event is kept after it last happened.
const KEEP: SignedDuration = SignedDuration::from_hours(1);
/// How often old ones are looked for. Nothing is written when there are none.
const INTERVAL: Duration = Duration::from_secs(600);
/// The newest of so many Events are kept, whatever their age.
const MAX_EVENTS: usize = 5000;

impl ApiServer {
    /// Removes old Events for ever; to be run as a task.
    pub async fn expire_events(self: Arc<Self>) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            self.expire_events_before(Timestamp::now() - KEEP).await;
        }
    }

    pub(crate) async fn expire_events_before(&self, cutoff: Timestamp) {
        let Some(resource) = self.catalog.stored("", "events") else { return };
        let page = self.store.list(&meta::prefix(resource, ""), None, 0, |_| true);
        let mut kept: Vec<Arc<Record<Meta>>> = Vec::new();
        for record in page.records {
            let old = render::parse(&record).is_ok_and(|event| last_seen(&event) < cutoff);
            if old {
                self.remove(&record).await;
            } else {
                kept.push(record);
            }
        }
        kept.sort_by_key(|record| record.revision);
        let surplus = kept.len().saturating_sub(MAX_EVENTS);
        for record in &kept[..surplus] {
            self.remove(record).await;
        }
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
