//! The server: from an HTTP request to a response.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use api::{Resource, Subresource};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::ACCEPT_ENCODING;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use store::{DiskError, Options, Store};

use crate::audit::Audit;
use crate::body::{self, Body};
use crate::budget::Lease;
use crate::call::Call;
use crate::catalog::Catalog;
use crate::churn::Churn;
use crate::config::Config;
use crate::deadline::Deadline;
use crate::error::ApiError;
use crate::health::NodeParts;
use crate::intake::{self, Intake};
use crate::locks::Locks;
use crate::meta::Meta;
use crate::negotiate::Encoding;
use crate::openapi::Documents;
use crate::progress::Lasting;
use crate::public::PublicPaths;
use crate::request::{Query, RequestInfo};
use crate::requests::Requests;
use crate::security::{Attributes, Decision, Security, User};
use crate::services::Services;
use crate::spending::Counted;
use crate::stream_proxy::{NodeDialer, Nodes};
use crate::tls_listener::Origin;
use crate::ui::{self, Dashboard};
use crate::{audit, components, metrics, public, subresources, verbs};

/// The Kubernetes API over one store.
pub struct ApiServer {
    pub(crate) config: Config,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) store: Store<Meta>,
    pub(crate) security: Arc<Security>,
    pub(crate) services: Services,
    pub(crate) public: PublicPaths,
    pub(crate) openapi: Documents,
    pub(crate) ui: Dashboard,
    /// Held by whoever creates something in a namespace with a quota.
    pub(crate) quota_turns: Locks<tokio::sync::Mutex<()>>,
    pub(crate) sampler: metrics::Sampler,
    /// What has been answered so far.
    pub(crate) requests: Requests,
    /// The creations and removals of late.
    pub(crate) churn: Churn,
    /// The other parts of the node, once they are known.
    pub(crate) parts: OnceLock<Arc<dyn NodeParts>>,
    pub(crate) audit: OnceLock<Arc<Audit>>,
    pub(crate) intake: Intake,
    nodes: Nodes,
}

/// Opens the state file for the resource types of `catalog`.
pub fn open_store(
    path: &std::path::Path,
    options: Options,
    catalog: &Catalog,
) -> Result<Store<Meta>, DiskError> {
    Store::open(path, options, |key, bytes| Meta::derive(catalog, key, bytes))
}

impl ApiServer {
    /// Builds the server and rebuilds from the store what it allocates from.
    pub fn new(
        config: Config,
        catalog: Arc<Catalog>,
        store: Store<Meta>,
        security: Arc<Security>,
    ) -> Arc<Self> {
        let services = Services::rebuild(&config, &catalog, &store);
        let public = PublicPaths::new(&config, &catalog);
        let intake = Intake::new(config.max_requests_in_flight, config.open_files);
        Arc::new(Self {
            config,
            catalog,
            store,
            security,
            services,
            public,
            openapi: Documents::default(),
            ui: Dashboard::default(),
            quota_turns: Locks::default(),
            sampler: metrics::Sampler::default(),
            requests: Requests::default(),
            churn: Churn::default(),
            parts: OnceLock::new(),
            audit: OnceLock::new(),
            intake,
            nodes: Nodes::default(),
        })
    }

    /// The store behind the server.
    pub fn store(&self) -> &Store<Meta> {
        &self.store
    }

    /// Records the requests from now on; once.
    pub fn set_audit(&self, audit: Arc<Audit>) {
        // A second log is ignored.
        let _ = self.audit.set(audit);
    }

    /// Waits until the events of the audit log are written.
    pub fn flush_audit(&self) {
        if let Some(audit) = self.audit.get() {
            audit.flush();
        }
    }

    /// Tells the server how to reach the kubelets of its nodes; once.
    pub fn set_node_dialer(&self, dialer: Arc<dyn NodeDialer>) {
        self.nodes.set(dialer);
    }

    /// Tells the server of the other parts of the node; once.
    pub fn set_parts(&self, parts: Arc<dyn NodeParts>) {
        let _ = self.parts.set(parts);
    }

    /// Waits until very many more objects were created or removed.
    pub async fn many_changed(&self) {
        self.churn.many().await;
    }

    /// Requests from outside the process that are being answered.
    pub(crate) fn requests_in_flight(&self) -> usize {
        self.intake.requests_in_flight()
    }

    pub(crate) fn node_dialer(&self) -> Option<&Arc<dyn NodeDialer>> {
        self.nodes.get()
    }

    /// Answers one request. A user among the request's extensions ([`User::send`])
    /// is believed.
    pub fn handle(self: &Arc<Self>, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let server = self.clone();
        // Boxed so that callers need not prove anew, for every lifetime in it, that it is `Send`.
        async move {
            let from_browser = ui::from_browser(request.headers());
            let application = from_browser && request.uri().path().contains("/proxy");
            let mut request = request;
            let trail = audit::begin(server.audit.get(), &mut request);
            let answer = AssertUnwindSafe(server.answer(request)).catch_unwind().await;
            let panicked = answer.is_err();
            let mut response = match answer {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => body::failure(&error),
                Err(_) => body::failure(&ApiError::internal("the request handler panicked")),
            };
            if from_browser {
                ui::harden(&mut response, application);
            }
            match trail {
                Some(trail) => trail.respond(response, panicked),
                None => response,
            }
        }
        .boxed()
    }

    async fn answer(self: &Arc<Self>, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let (mut parts, body) = request.into_parts();
        let query = Query::parse(parts.uri.query().unwrap_or(""));
        let info = RequestInfo::parse(&parts.method, &parts.uri, &query);
        let inside = parts.extensions.get::<Arc<Origin>>().is_none();
        if !inside {
            self.admit_browser(&mut parts, &info)?;
        }
        let user = self.security.authenticate(&parts).await;
        let body = audit::admit(self, &mut parts, &info, &user, body).await;
        let user = user?;
        let holder = intake::holder(&user);
        if ui::owns(&info.path) {
            let place = (!inside).then(|| self.intake.stream(&holder)).transpose()?;
            let response = ui::answer(self, &user, &info, &query, parts, body).await?;
            return self.stream(response, &holder, place);
        }
        if self.is_misplaced(&info) {
            return Ok(public::page_not_found());
        }
        self.authorize(&user, &info)?;
        if !inside {
            self.ui.admit_load(&parts, &info, &user)?;
        }
        if info.is_long_running() {
            let tunnel = !inside && info.verb != "watch";
            let tunnel = tunnel.then(|| self.intake.tunnel(&holder)).transpose()?;
            let place = (!inside).then(|| self.intake.stream(&holder)).transpose()?;
            let deadline = Deadline::default();
            let routed = self.route(&user, &info, &query, parts, body, &deadline).boxed();
            let routed = match inside {
                true => routed.await?,
                false => Counted::new(routed, &self.intake.spending, &holder).await?,
            };
            let response = self.stream(routed, &holder, place)?;
            return Ok(response.map(|body| body::holding(body, tunnel)));
        }
        let timeout = self.config.request_timeout;
        let (body, sent, _bytes) = match (is_read(&parts.method), inside) {
            (true, _) => (body, Bytes::new(), None),
            (false, true) => {
                let bytes = body::read(&parts.headers, body).await?;
                (body::full(bytes.clone()), bytes, None)
            }
            (false, false) => {
                let read = self.intake.body(&holder, &parts.headers, body, timeout);
                let (bytes, lease) = read.await?;
                (body::full(bytes.clone()), bytes, Some(lease))
            }
        };
        let _place = (!inside).then(|| self.intake.place(&holder)).transpose()?;
        let writes = !is_read(&parts.method);
        let written_bytes = if writes { sent.len() + self.stored_bytes(&info) } else { 0 };
        let heavy = self.is_heavy(&info, &query, &parts, &sent, written_bytes)
            || !inside && self.intake.spending.is_over(&holder);
        let responses = &self.intake.responses;
        // Whether the response to a write can be sent is known before it is done.
        let room = (writes && !inside)
            .then(|| responses.room_to_write(&holder, written_bytes))
            .transpose()?;
        let (server, deadline) = (self.clone(), Deadline::default());
        // Work on another thread goes on without its client.
        let _ends = deadline.ends_on_drop();
        let until = deadline.clone();
        // Boxed where it is made, so that what waits for it does not have its size.
        let work = async move {
            until.check()?;
            server.route(&user, &info, &query, parts, body, &until).await
        }
        .boxed();
        let answered = async {
            match (heavy, inside) {
                (true, _) => self.intake.heavy(&holder, work).await?,
                (false, true) => work.await,
                (false, false) => Counted::new(work, &self.intake.spending, &holder).await,
            }
        };
        let response = deadline.limit(timeout, answered).await?;
        match room {
            Some(room) => Ok(responses.send_in(response, room)),
            None if inside => Ok(response),
            None => responses.send(response, &holder),
        }
    }

    /// Sends a response that lasts, which keeps its place if it is for another process.
    fn stream(
        &self,
        response: Response<Body>,
        holder: &Arc<str>,
        place: Option<Lease>,
    ) -> Result<Response<Body>, ApiError> {
        let Some(place) = place else { return Ok(response) };
        let mut response = self.intake.responses.stream(response, holder)?;
        response.extensions_mut().insert(Lasting);
        Ok(response.map(|body| body::holding(body, place)))
    }

    /// Keeps other people's pages out, and lets the user of a dashboard session in.
    fn admit_browser(&self, parts: &mut Parts, info: &RequestInfo) -> Result<(), ApiError> {
        if parts.extensions.get::<ui::Vouched>().is_none() {
            ui::refuse_foreign_pages(parts, info)?;
        }
        let identified = User::sends(&parts.extensions).is_some();
        if !identified && let Some(user) = self.ui.user_of_cookie(parts, info) {
            ui::check_host(parts, &self.config.ui_hosts)?;
            ui::refuse_application(info)?;
            Arc::new(user).send(&mut parts.extensions);
        }
        Ok(())
    }

    /// Returns whether the path names a resource at a scope that it does not have. Checked before
    /// authorization, which takes the namespace from the path: a right in one namespace must not
    /// reach what belongs to no namespace.
    fn is_misplaced(&self, info: &RequestInfo) -> bool {
        if !info.is_resource {
            return false;
        }
        let Some((resource, _)) = self.catalog.find(&info.group, &info.version, &info.resource)
        else {
            return false;
        };
        let across = matches!(info.verb, "list" | "watch" | "deletecollection");
        match (resource.namespaced, info.below_namespace) {
            (false, below) => below,
            (true, true) => false,
            (true, false) => !info.name.is_empty() && !across,
        }
    }

    pub(crate) fn authorize(&self, user: &User, info: &RequestInfo) -> Result<(), ApiError> {
        let decision = self.decision(user, info);
        if decision.allowed {
            return Ok(());
        }
        let attributes = Attributes::of(user, info);
        let message = attributes.forbidden_message(&decision.reason);
        let refused = ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message);
        Err(refused.about(&info.group, &info.resource, &info.name))
    }

    /// Returns whether the user may do this, and the reason.
    pub(crate) fn decision(&self, user: &User, info: &RequestInfo) -> Decision {
        if !info.is_resource && public::is_open(&info.path) {
            return Decision { allowed: true, reason: String::new() };
        }
        self.security.authorize(&Attributes::of(user, info))
    }

    async fn route(
        self: &Arc<Self>,
        user: &User,
        info: &RequestInfo,
        query: &Query,
        parts: Parts,
        body: Body,
        deadline: &Deadline,
    ) -> Result<Response<Body>, ApiError> {
        if !info.is_resource {
            return public::answer(self, info, &parts).await;
        }
        let Some(found) = self.catalog.find(&info.group, &info.version, &info.resource) else {
            return match public::no_definitions(self, info) {
                Some(none) => body::value(StatusCode::OK, &none, Encoding::Json, &parts.headers),
                None => Ok(public::page_not_found()),
            };
        };
        if info.verb.is_empty() {
            return Err(ApiError::method_not_allowed());
        }
        let mut parts = parts;
        let mut headers = match info.subresource.is_empty() {
            true => std::mem::take(&mut parts.headers),
            // Connections are upgraded and passed on with their headers.
            false => parts.headers.clone(),
        };
        if parts.extensions.get::<Arc<Origin>>().is_some_and(|origin| origin.on_this_machine) {
            headers.remove(ACCEPT_ENCODING);
        }
        let inside = parts.extensions.get::<Arc<Origin>>().is_none();
        let call = Call::new(self, user, info, query, &headers, found).until(deadline, inside);
        call.warn_all(api::registry::deprecation_warning(found.1));
        let began = Instant::now();
        let answer = match info.subresource.as_str() {
            "" => dispatch(&call, body).await,
            _ => subresources::dispatch(&call, parts, body).await,
        };
        let mut response = answer.unwrap_or_else(|error| body::failure(&error));
        let took = (!info.is_long_running()).then(|| began.elapsed());
        self.requests.count(info.verb, found.1, &info.subresource, response.status(), took);
        call.into_warnings().write(response.headers_mut());
        Ok(response)
    }

    /// The resource type stored under this group and plural, which the server itself relies on.
    pub(crate) fn builtin(&self, group: &str, plural: &str) -> Result<&'static Resource, ApiError> {
        self.catalog
            .stored(group, plural)
            .ok_or_else(|| ApiError::internal(format!("{plural} is not a known resource type")))
    }
}

/// A request for objects themselves.
async fn dispatch(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let verb = call.info.verb;
    let named = !call.info.name.is_empty();
    let misplaced = (verb == "create" && named) || (matches!(verb, "update" | "patch") && !named);
    if misplaced || !call.resource.verbs.contains(&verb) {
        return Err(ApiError::method_not_allowed());
    }
    if call.stored_as().group == metrics::GROUP {
        return metrics::answer(call).await;
    }
    if call.stored_as().kind == components::KIND {
        return components::answer(call).await;
    }
    match verb {
        "get" => verbs::get::answer(call),
        "list" => verbs::list::answer(call).await,
        "watch" => verbs::watch::answer(call).await,
        "create" => {
            let body = body::read(call.headers, body).await?;
            verbs::create::answer(call, &body).await
        }
        "update" => {
            let body = body::read(call.headers, body).await?;
            verbs::update::answer(call, Subresource::None, &body).await
        }
        "patch" => {
            let body = body::read(call.headers, body).await?;
            verbs::patch::answer(call, Subresource::None, &body).await
        }
        "delete" => {
            let body = body::read(call.headers, body).await?;
            verbs::delete::answer(call, &body).await
        }
        "deletecollection" => {
            let body = body::read(call.headers, body).await?;
            verbs::delete_collection::answer(call, &body).await
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Whether a method only reads.
pub(crate) fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}
