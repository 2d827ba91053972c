//! `watch`: the changes of a collection as a stream of JSON lines.

mod lines;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};
use jiff::Timestamp;
use serde_json::{Value, json};
use store::{Change, ChangeKind, Record, Watch, WatchError};
use tokio::time::Instant;

use crate::body::{self, Body};
use crate::call::Call;
use crate::error::ApiError;
use crate::heavy::{LIGHT_SELECT_MAX, LIGHT_TRANSFORM_BYTES, LIGHT_WALK_MAX};
use crate::intake;
use crate::meta::{self, Meta};
use crate::negotiate::{Encoding, Form};
use crate::object::Encoded;
use crate::options::ListOptions;
use crate::request::{Query, RequestInfo};
use crate::security::User;
use crate::selection::Selection;
use crate::sending::{Beginning, PIECE_BYTES};
use crate::spending::Look;
use crate::table::Table;
use crate::{catalog, render, server};
use lines::Lines;

/// How often a client that asked for bookmarks gets one.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// A watch without `timeoutSeconds` ends after this to twice this (upstream `min-request-timeout`).
const DEFAULT_TIMEOUT_S: u64 = 1800;
/// The longest that a client may ask for. As upstream, a watch is authorized when it begins and goes
/// on when the right is revoked or the token expires; this bounds for how long.
const TIMEOUT_S_MAX: u64 = 2 * DEFAULT_TIMEOUT_S;
/// The time between two looks of a watch that is only woken by changes of others.
const CALM: Duration = Duration::from_millis(5);
/// Longest time that a watch waits because those of its user have taken too much time.
const REPAY_WAIT: Duration = Duration::from_secs(5);
/// The time between two looks whether it may go on.
const REPAY_POLL: Duration = Duration::from_millis(250);
/// Marks the bookmark behind the initial events of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Answers with the stream of changes.
pub(crate) async fn answer(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let accepted = render::accepted(call)?;
    if accepted.encoding == Encoding::Yaml {
        return Err(ApiError::not_acceptable(&["application/json"]));
    }
    let options = ListOptions::parse(call.query)?;
    let selection = Selection::parse(call)?;
    let timeout_s = options
        .timeout_seconds
        .filter(|s| *s > 0)
        .map(|s| s.min(TIMEOUT_S_MAX))
        .unwrap_or_else(|| rand::random_range(DEFAULT_TIMEOUT_S..2 * DEFAULT_TIMEOUT_S));
    let (head, watch, selection) = open(call, &options, selection).await?;
    let beginning = Beginning { bytes: head.bytes(), sent: Arc::default() };
    let now = Instant::now();
    let watcher = Watcher {
        server: call.server.clone(),
        holder: (!call.inside).then(|| intake::holder(call.user)),
        user: call.user.clone(),
        info: call.info.clone(),
        query: call.query.clone(),
        headers: HeaderMap::new(),
        found: (call.resource, call.served),
        form: accepted.form,
        selection,
        bookmarks: options.bookmarks,
        next_bookmark: now + BOOKMARK_INTERVAL,
        deadline: now + Duration::from_secs(timeout_s),
        columns_sent: false,
        head,
        head_sent: beginning.sent.clone(),
        state: match watch {
            Ok(watch) => State::Live(watch),
            Err(error) => State::Failing(error),
        },
        frames: VecDeque::new(),
    };
    let mut response = Response::new(body::stream(stream(watcher)));
    response.extensions_mut().insert(beginning);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("cache-control", HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// What comes before the changes.
enum Head {
    /// The objects of the initial state, then the bookmark that ends them if the client asked for
    /// a streaming list; then the changes.
    Initial { records: VecDeque<Arc<Record<Meta>>>, end: Option<u64> },
    /// Nothing (more).
    Done,
}

impl Head {
    /// Bytes of the objects, which stay in memory for the watch when they are replaced meanwhile.
    fn bytes(&self) -> usize {
        match self {
            Self::Initial { records, .. } => records.iter().map(|r| r.value.len()).sum(),
            Self::Done => 0,
        }
    }
}

/// Where the stream stands.
enum State {
    /// Following changes; ends at the deadline or with an error.
    Live(Watch<Meta>),
    /// One more event, this error; then the end.
    Failing(WatchError),
    /// Nothing more comes.
    Ended,
}

struct Watcher {
    server: Arc<server::ApiServer>,
    /// The holder for whom the time of its looks counts; none for other parts of this process.
    holder: Option<Arc<str>>,
    user: User,
    info: RequestInfo,
    query: Query,
    headers: HeaderMap,
    found: catalog::Found,
    form: Form,
    selection: Selection,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    columns_sent: bool,
    head: Head,
    /// Set when nothing of the head is kept any more.
    head_sent: Arc<AtomicBool>,
    state: State,
    /// Frames that are written and not sent yet.
    frames: VecDeque<Bytes>,
}

type Opened = (Head, Result<Watch<Meta>, WatchError>, Selection);

/// Finds the starting point that the resource version asks for.
async fn open(
    call: &Call<'_>,
    options: &ListOptions,
    selection: Selection,
) -> Result<Opened, ApiError> {
    let store = &call.server.store;
    let prefix = meta::prefix(call.resource, call.namespace());
    let wanted = options.resource_version.unwrap_or(0);
    let initial = options.send_initial_events.unwrap_or(wanted == 0);
    if options.send_initial_events.is_some() && wanted > store.revision() {
        return Err(ApiError::revision_too_large(wanted, store.revision()));
    }
    if !initial {
        return Ok((Head::Done, store.watch(&prefix, wanted), selection));
    }
    let (of, within) = (store.clone(), prefix.clone());
    let selects = !selection.is_everything();
    let walk = move || (of.select(&within, None, 0, |record| selection.matches(record)), selection);
    let light = if selects { LIGHT_SELECT_MAX } else { LIGHT_WALK_MAX };
    let heavy = store.count(&prefix) > light || call.is_over();
    let (page, selection) = call.work(heavy, walk).await?;
    let end = options.send_initial_events.filter(|_| options.bookmarks).map(|_| page.revision);
    let head = Head::Initial { records: page.records.into(), end };
    Ok((head, store.watch(&prefix, page.revision), selection))
}

fn stream(watcher: Watcher) -> impl Stream<Item = Bytes> + Send {
    futures::stream::unfold(watcher, Watcher::frame)
}

/// What the next lines say.
enum Events {
    /// The next objects of the initial state; `is_last` when no others come.
    Initial { records: Vec<Arc<Record<Meta>>>, is_last: bool, end: Option<u64> },
    /// Changes, each of which concerns the selection, and then perhaps a bookmark.
    Changes { changes: Vec<Change<Meta>>, bookmark: Option<u64> },
    /// Why the watch ends.
    Failure(WatchError),
}

impl Watcher {
    /// Waits for the next frame of the response.
    async fn frame(mut self) -> Option<(Bytes, Self)> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Some((frame, self));
            }
            let events = self.events().await?;
            if !self.is_heavy(&events) {
                let look = Look::begin();
                self.write(events);
                self.count(&look);
                continue;
            }
            let (server, holder) = (self.server.clone(), intake::holder(&self.user));
            let work = async move {
                self.write(events);
                self
            };
            // An error ends the watch: the server stops, or it has panicked.
            self = server.intake.heavy(&holder, work).await.ok()?;
        }
    }

    /// Waits until the holder's watches have not taken more than their share, for some time.
    async fn repay(&self) {
        let Some(holder) = &self.holder else { return };
        let until = Instant::now() + REPAY_WAIT;
        while self.server.intake.watching.is_over(holder) && Instant::now() < until {
            tokio::time::sleep(REPAY_POLL).await;
        }
    }

    /// Counts the time of a look.
    fn count(&self, look: &Look) {
        if let Some(holder) = &self.holder {
            self.server.intake.watching.add(holder, look.time());
        }
    }

    /// Waits for the next events.
    async fn events(&mut self) -> Option<Events> {
        if let Head::Initial { records, end } = &mut self.head {
            let mut bytes = 0;
            let mut fits = |record: &Arc<Record<Meta>>| {
                let is_first = bytes == 0;
                bytes += record.value.len();
                is_first || bytes < PIECE_BYTES
            };
            let count = records.iter().take_while(|record| fits(record)).count();
            let (next, end) = (records.drain(..count).collect(), *end);
            let is_last = records.is_empty();
            if is_last {
                self.head = Head::Done;
            }
            return Some(Events::Initial { records: next, is_last, end });
        }
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Live(watch) => self.live(watch).await,
            State::Failing(error) => Some(Events::Failure(error)),
            State::Ended => None,
        }
    }

    /// Waits for the next changes.
    async fn live(&mut self, mut watch: Watch<Meta>) -> Option<Events> {
        let is_narrow = !self.info.namespace.is_empty() || self.selection.is_of_one_name();
        let mut looked_in_vain = None;
        let mut goes_on = false;
        loop {
            // Not between the parts of what has come, of which the history might lose the rest.
            if !std::mem::take(&mut goes_on) {
                self.repay().await;
            }
            let look = Look::begin();
            let batch = match watch.poll_at_most(PIECE_BYTES) {
                Ok(batch) => batch,
                Err(error) => return Some(Events::Failure(error)),
            };
            let mut changes = batch.changes;
            changes.retain(|change| self.concerns(change) != (false, false));
            self.count(&look);
            let now = Instant::now();
            let ends = now >= self.deadline;
            let mut bookmark = None;
            if self.bookmarks && (ends || now >= self.next_bookmark) {
                self.next_bookmark = now + BOOKMARK_INTERVAL;
                bookmark = Some(batch.revision);
            }
            let is_empty = changes.is_empty() && bookmark.is_none();
            if ends {
                return (!is_empty).then_some(Events::Changes { changes, bookmark });
            }
            if !is_empty {
                self.state = State::Live(watch);
                return Some(Events::Changes { changes, bookmark });
            }
            if !batch.is_complete {
                goes_on = true;
                continue;
            }
            let wake =
                if self.bookmarks { self.next_bookmark.min(self.deadline) } else { self.deadline };
            // A change wakes all that watch the kind, and a busy kind is not that of this watch.
            if is_narrow && let Some(at) = looked_in_vain.replace(now).filter(|at| now - *at < CALM)
            {
                tokio::time::sleep_until(wake.min(at + CALM)).await;
            }
            // Either way the loop looks again.
            let _ = tokio::time::timeout_at(wake, watch.changed()).await;
        }
    }

    /// Returns whether objects are so large that the threads that serve the API do not convert them.
    fn is_heavy(&self, events: &Events) -> bool {
        let copies = self.copies();
        let converted = |record: &Record<Meta>| if copies { 0 } else { record.value.len() };
        let bytes: usize = match events {
            Events::Initial { records, .. } => records.iter().map(|r| converted(r)).sum(),
            Events::Changes { changes, .. } => {
                let of_change = |change: &Change<Meta>| match &change.previous {
                    Some(left) if self.leaves(change) => left.value.len(),
                    _ => converted(&change.record),
                };
                changes.iter().map(of_change).sum()
            }
            Events::Failure(_) => 0,
        };
        bytes > LIGHT_TRANSFORM_BYTES
    }

    /// Writes the lines of events into frames.
    fn write(&mut self, events: Events) {
        let mut lines = Lines::default();
        match events {
            Events::Initial { records, is_last, end } => {
                for record in records {
                    self.event(&mut lines, "ADDED", &record);
                }
                if is_last {
                    self.head_sent.store(true, Ordering::Release);
                    if let Some(revision) = end {
                        self.bookmark(&mut lines, revision, true);
                    }
                }
            }
            Events::Changes { changes, bookmark } => {
                for change in &changes {
                    self.change(&mut lines, change);
                }
                if let Some(revision) = bookmark {
                    self.bookmark(&mut lines, revision, false);
                }
            }
            Events::Failure(error) => lines = self.error_event(&error),
        }
        self.frames = lines.into_frames();
    }

    /// Returns whether the selection has the object before and after a change.
    fn concerns(&self, change: &Change<Meta>) -> (bool, bool) {
        let before = change.previous.as_ref().is_some_and(|r| self.selection.matches(r));
        let after = change.kind != ChangeKind::Deleted && self.selection.matches(&change.record);
        (before, after)
    }

    /// Returns whether a change takes the object out of the selection, but not away.
    fn leaves(&self, change: &Change<Meta>) -> bool {
        change.kind != ChangeKind::Deleted && self.concerns(change) == (true, false)
    }

    /// Returns whether objects are sent as they are stored.
    fn copies(&self) -> bool {
        self.form == Form::Whole && std::ptr::eq(self.found.1, &self.found.0.served[0])
    }

    /// Writes the event that a change means for this selection, if any.
    fn change(&mut self, lines: &mut Lines, change: &Change<Meta>) {
        match self.concerns(change) {
            (false, true) => self.event(lines, "ADDED", &change.record),
            (true, true) => self.event(lines, "MODIFIED", &change.record),
            (true, false) if change.kind == ChangeKind::Deleted => {
                self.event(lines, "DELETED", &change.record);
            }
            // It left the selection: the client gets the last state that it could know, at the
            // revision of the change.
            (true, false) => {
                if let Some(previous) = &change.previous
                    && let Ok(mut object) = render::parse(previous)
                {
                    object["metadata"]["resourceVersion"] =
                        change.record.revision.to_string().into();
                    self.object_event(lines, "DELETED", object, change.record.revision);
                }
            }
            (false, false) => {}
        }
    }

    fn event(&mut self, lines: &mut Lines, kind: &str, record: &Record<Meta>) {
        if self.copies() {
            lines.push(kind, &record.value);
            return;
        }
        if let Form::Metadata(version) = self.form {
            match render::partial_bytes(record, version) {
                Ok(object) => lines.push(kind, &object.into()),
                Err(error) => tracing::error!(%error, "a watch event is skipped"),
            }
            return;
        }
        match render::parse(record) {
            Ok(object) => self.object_event(lines, kind, object, record.revision),
            Err(error) => tracing::error!(%error, "a watch event is skipped"),
        }
    }

    /// Writes the event of an object in its storage version.
    fn object_event(&mut self, lines: &mut Lines, kind: &str, object: Value, revision: u64) {
        let first = !std::mem::replace(&mut self.columns_sent, true);
        let form = self.form.clone();
        let found = self.found;
        let call = self.call();
        let bytes: Bytes = match form {
            Form::Table(version) => {
                let Ok(mut table) = Table::new(&call, version) else { return };
                if !first {
                    table = table.without_columns();
                }
                table.push(object, Timestamp::now());
                let metadata = json!({ "resourceVersion": revision.to_string() });
                table.finish(&metadata).to_string().into()
            }
            Form::Metadata(version) => render::partial(&object, version).to_string().into(),
            Form::Whole | Form::Discovery(_) => {
                let mut object = object;
                render::convert(&call, &mut object);
                Encoded::new(&object, found.1).at(revision)
            }
        };
        lines.push(kind, &bytes);
    }

    fn bookmark(&self, lines: &mut Lines, revision: u64, ends_initial: bool) {
        let mut metadata = json!({
            "resourceVersion": revision.to_string(), "creationTimestamp": null,
        });
        if ends_initial {
            metadata["annotations"] = json!({ INITIAL_EVENTS_END: "true" });
        }
        let served = self.found.1;
        let object = match self.form {
            Form::Table(version) => {
                // A table has a row for each object, and kubectl finds the annotation in it.
                let row = json!({ "cells": [], "object": {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": metadata,
                }});
                json!({
                    "kind": "Table",
                    "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": { "resourceVersion": revision.to_string() },
                    "columnDefinitions": [],
                    "rows": if ends_initial { vec![row] } else { Vec::new() },
                })
            }
            Form::Metadata(version) => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata,
            }),
            Form::Whole | Form::Discovery(_) => json!({
                "kind": served.kind, "apiVersion": served.api_version(), "metadata": metadata,
            }),
        };
        lines.push("BOOKMARK", &object.to_string().into());
    }

    fn error_event(&self, error: &WatchError) -> Lines {
        let message = match error {
            WatchError::TooOld(revision) => {
                format!("too old resource version: {revision} ({})", self.server.store.revision())
            }
            WatchError::Future { wanted, current } => {
                format!("too large resource version: {wanted}, current: {current}")
            }
        };
        let mut lines = Lines::default();
        let status = ApiError::expired(message).status().to_string();
        lines.push("ERROR", &status.into());
        lines
    }

    fn call(&self) -> Call<'_> {
        Call::new(&self.server, &self.user, &self.info, &self.query, &self.headers, self.found)
    }
}
