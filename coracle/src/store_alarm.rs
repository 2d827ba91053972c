//! Warning Events on the Node about the store: when it is nearly full, and when a write has failed.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use store::Alarms;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Reports each alarm as it begins, until the node stops.
pub async fn report(
    client: Client,
    node: String,
    mut alarms: watch::Receiver<Alarms>,
    token: CancellationToken,
) {
    let reporter = Reporter { controller: "coracle".into(), instance: Some(node.clone()) };
    let recorder = Recorder::new(client, reporter);
    let about = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        uid: Some(node.clone()),
        name: Some(node),
        ..ObjectReference::default()
    };
    let mut before = Alarms::default();
    loop {
        let now = *alarms.borrow_and_update();
        for (reason, note) in begun(before, now) {
            tracing::warn!(reason, "{note}");
            let event = Event {
                type_: EventType::Warning,
                reason: reason.into(),
                note: Some(note.into()),
                action: "Store".into(),
                secondary: None,
            };
            if let Err(error) = recorder.publish(&event, &about).await {
                tracing::warn!(%error, reason, "the Event could not be recorded");
            }
        }
        before = now;
        tokio::select! {
            changed = alarms.changed() => if changed.is_err() { return },
            () = token.cancelled() => return,
        }
    }
}

/// The alarms that begin between two looks: reason and note of an Event each.
fn begun(before: Alarms, now: Alarms) -> Vec<(&'static str, &'static str)> {
    let space = (
        "StoreAlmostFull",
        "The object store has reached 80% of --store-max-size; delete objects or raise it.",
    );
    let disk = (
        "StoreWriteFailed",
        "The object store could not be written; writes are refused until the disk works again.",
    );
    let begun = [(now.space && !before.space, space), (now.disk && !before.disk, disk)];
    begun.into_iter().filter(|(begins, _)| *begins).map(|(_, event)| event).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_alarm_is_reported_once() {
        let alarms = |space, disk| Alarms { space, disk };
        let reasons = |before, now| {
            begun(before, now).into_iter().map(|(reason, _)| reason).collect::<Vec<_>>()
        };
        assert_eq!(reasons(alarms(false, false), alarms(true, false)), ["StoreAlmostFull"]);
        assert_eq!(reasons(alarms(true, false), alarms(true, true)), ["StoreWriteFailed"]);
        assert!(reasons(alarms(true, true), alarms(true, false)).is_empty());
    }
}
