//! Rounds over HorizontalPodAutoscalers: read the scale and the metrics, decide, write the scale.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::quantity::Quantity;
use api::selector::LabelSelector;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec,
    MetricStatus, MetricTarget,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::autoscaler::behaviour::{self, Memory, Wish};
use crate::autoscaler::metrics;
use crate::autoscaler::replicas::{self, Goal, Observed, Proposal, Tolerance};
use crate::autoscaler::status::{self, ABLE_TO_SCALE, SCALING_ACTIVE, SCALING_LIMITED, Statement};
use crate::cache::{Change, ObjectKey};
use crate::context::Context;
use crate::error::Error;
use crate::event::{Notice, Recorder};
use crate::queue::{Queue, Requeue};
use crate::request;
use crate::scale::{self, Scale, Target};

/// The name under which events are reported.
const COMPONENT: &str = "horizontal-pod-autoscaler";
/// How many autoscalers are served at once.
const WORKERS: usize = 4;
/// How often each looks at its metrics.
const PERIOD: Duration = Duration::from_secs(15);
/// How far a metric may be off its goal without anything being done.
const TOLERANCE: f64 = 0.1;

struct Controller {
    context: Arc<Context>,
    recorder: Recorder,
    queue: Arc<Queue<ObjectKey>>,
    memories: Mutex<HashMap<ObjectKey, Memory>>,
}

/// Subscribes to autoscalers and returns the workers, to be run when the caches are filled.
/// Without any autoscaler nothing ever wakes up.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let controller = Arc::new(Controller {
        context: context.clone(),
        recorder: context.recorder.speaking_for(COMPONENT),
        queue: Queue::new(),
        memories: Mutex::new(HashMap::new()),
    });
    let watcher = controller.clone();
    context.caches.autoscalers.on_change(move |change| {
        // The status is this controller's own.
        if let Change::Applied { old: Some(old), new } = change
            && old.spec == new.spec
        {
            return;
        }
        watcher.queue.add(ObjectKey::of(change.object().as_ref()));
    });
    controller.queue.serve(COMPONENT, WORKERS, &context.token, &controller, Controller::reconcile)
}

/// One round over one autoscaler.
struct Round {
    autoscaler: HorizontalPodAutoscaler,
    now: Timestamp,
}

impl Round {
    fn state(&mut self, statement: Statement) {
        let status = self.autoscaler.status.get_or_insert_default();
        status::set(&mut status.conditions, statement, self.now);
    }

    fn sizes(&mut self, current: i32, desired: i32, metrics: Vec<MetricStatus>) {
        let status = self.autoscaler.status.get_or_insert_default();
        status.current_replicas = (current != 0).then_some(current);
        status.desired_replicas = desired;
        status.current_metrics = (!metrics.is_empty()).then_some(metrics);
    }
}

/// What all metrics together ask for.
struct Computed {
    replicas: i32,
    metric: String,
    statuses: Vec<MetricStatus>,
    /// Some metrics could not be computed.
    failure: Option<String>,
}

/// Why one metric cannot be computed: the reason of the condition, and the sentence.
type Failure = (&'static str, String);

impl Controller {
    async fn reconcile(self: Arc<Self>, key: ObjectKey) -> Result<Requeue, Error> {
        let Some(known) = self.context.caches.autoscalers.get(&key) else {
            self.lock().remove(&key);
            return Ok(Requeue::Never);
        };
        let Some(spec) = known.spec.clone() else { return Ok(Requeue::Never) };
        let mut round = Round { autoscaler: (*known).clone(), now: Timestamp::now() };
        let outcome = self.round(&key, &spec, &mut round).await;
        if round.autoscaler.status != known.status {
            request::write_status(
                &self.context.client,
                &self.context.caches.autoscalers,
                &round.autoscaler,
            )
            .await?;
        }
        if let Err(error) = outcome {
            tracing::debug!(?key, %error, "an autoscaler could not do its work");
        }
        Ok(Requeue::After(PERIOD))
    }

    async fn round(
        &self,
        key: &ObjectKey,
        spec: &HorizontalPodAutoscalerSpec,
        round: &mut Round,
    ) -> Result<(), Error> {
        let reference = &spec.scale_target_ref;
        let api_version = reference.api_version.as_deref().unwrap_or("v1");
        let target = Target::new(api_version, &reference.kind, &key.namespace, &reference.name);
        let resources = self.context.config.resources;
        let scalable = target.resolve(resources);
        let read = match &scalable {
            Some(scalable) => match scale::read(&self.context.client, scalable).await {
                Ok(scale) => Ok(scale),
                Err(error) => Err(error.message()),
            },
            None if target.is_known(resources) => {
                Err("the server could not find the requested resource".to_owned())
            }
            None => Err(format!(
                "no matches for kind {:?} in group {:?}",
                reference.kind,
                api_version.split_once('/').map_or("", |(group, _)| group)
            )),
        };
        let (scale, scalable) = match (read, scalable) {
            (Ok(scale), Some(scalable)) => (scale, scalable),
            (Err(why), _) => {
                self.tell(round, Notice::warning("FailedGetScale", why.clone()));
                let message = format!(
                    "the HPA controller was unable to get the target's current scale: {why}"
                );
                round.state(Statement::new(ABLE_TO_SCALE, false, "FailedGetScale", message));
                return Ok(());
            }
            (Ok(_), None) => return Ok(()),
        };
        let message = "the HPA controller was able to get the target's current scale";
        round.state(Statement::new(ABLE_TO_SCALE, true, "SucceededGetScale", message));
        let current = scale.replicas;
        self.lock().entry(key.clone()).or_insert_with(|| Memory {
            recommendations: vec![(round.now, current)],
            changes: Vec::new(),
        });
        let min = spec.min_replicas.unwrap_or(1);
        let mut statuses = Vec::new();
        let (desired, reason) = if current == 0 && min != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            round.state(Statement::new(SCALING_ACTIVE, false, "ScalingDisabled", message));
            round.sizes(current, 0, statuses);
            return Ok(());
        } else if current > spec.max_replicas {
            (spec.max_replicas, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < min {
            (min, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let computed = match self.compute(key, spec, &scale, round).await {
                Ok(computed) => computed,
                Err((found, failure)) => {
                    round.sizes(current, desired_before(round), found);
                    self.tell(round, Notice::warning("FailedComputeMetricsReplicas", failure));
                    return Ok(());
                }
            };
            if let Some(failure) = computed.failure {
                self.tell(round, Notice::warning("FailedComputeMetricsReplicas", failure));
            }
            statuses = computed.statuses;
            let reason = if computed.replicas > current {
                format!("{} above target", computed.metric)
            } else {
                "All metrics below target".to_owned()
            };
            (self.grant(key, spec, current, computed.replicas, round), reason)
        };
        if desired == current {
            round.sizes(current, desired, statuses);
            return Ok(());
        }
        if let Err(error) = scale::write(&self.context.client, &scalable, &scale, desired).await {
            let why = error.message();
            let message = format!("New size: {desired}; reason: {reason}; error: {why}");
            self.tell(round, Notice::warning("FailedRescale", message));
            let message =
                format!("the HPA controller was unable to update the target scale: {why}");
            round.state(Statement::new(ABLE_TO_SCALE, false, "FailedUpdateScale", message));
            round.sizes(current, desired_before(round), statuses);
            return Err(error);
        }
        let message =
            format!("the HPA controller was able to update the target scale to {desired}");
        round.state(Statement::new(ABLE_TO_SCALE, true, "SucceededRescale", message));
        let message = format!("New size: {desired}; reason: {reason}");
        self.tell(round, Notice::normal("SuccessfulRescale", message));
        if let Some(memory) = self.lock().get_mut(key) {
            behaviour::remember(
                memory,
                spec.behavior.as_ref(),
                desired.saturating_sub(current),
                round.now,
            );
        }
        round.sizes(current, desired, statuses);
        round.autoscaler.status.get_or_insert_default().last_scale_time = Some(Time(round.now));
        Ok(())
    }

    /// What of the wish the rules allow.
    fn grant(
        &self,
        key: &ObjectKey,
        spec: &HorizontalPodAutoscalerSpec,
        current: i32,
        desired: i32,
        round: &mut Round,
    ) -> i32 {
        let wish = Wish {
            behaviour: spec.behavior.as_ref(),
            min: spec.min_replicas.unwrap_or(1),
            max: spec.max_replicas,
            current,
            desired,
            now: round.now,
        };
        let granted = behaviour::grant(&wish, self.lock().entry(key.clone()).or_default());
        let fits = ("ReadyForNewScale", "recommended size matches current size");
        let (reason, message) = granted.stabilised.unwrap_or(fits);
        round.state(Statement::new(ABLE_TO_SCALE, true, reason, message));
        let (reason, message) = granted.why;
        round.state(Statement::new(SCALING_LIMITED, granted.limited, reason, message));
        granted.replicas
    }

    /// The largest of what the metrics ask for. Shrinking needs all of them to be known.
    async fn compute(
        &self,
        key: &ObjectKey,
        spec: &HorizontalPodAutoscalerSpec,
        scale: &Scale,
        round: &mut Round,
    ) -> Result<Computed, (Vec<MetricStatus>, String)> {
        if scale.selector.is_empty() {
            self.tell(round, Notice::warning("SelectorRequired", "selector is required"));
            let message = "the HPA target's scale is missing a selector";
            round.state(Statement::new(SCALING_ACTIVE, false, "InvalidSelector", message));
            return Err((Vec::new(), "selector is required".to_owned()));
        }
        let Ok(selector) = LabelSelector::parse(&scale.selector) else {
            let message = "couldn't convert selector into a corresponding internal selector object";
            self.tell(round, Notice::warning("InvalidSelector", message));
            round.state(Statement::new(SCALING_ACTIVE, false, "InvalidSelector", message));
            return Err((Vec::new(), message.to_owned()));
        };
        let mut pods = self.context.caches.pods.namespaced(&key.namespace);
        let none = std::collections::BTreeMap::new();
        pods.retain(|pod| selector.matches(pod.metadata.labels.as_ref().unwrap_or(&none)));
        let metrics = spec.metrics.as_deref().unwrap_or_default();
        let (mut best, mut statuses): (Option<(i32, String)>, _) = (None, Vec::new());
        let mut failures: Vec<Failure> = Vec::new();
        for metric in metrics {
            match self.metric(key, spec, metric, scale, &pods, round.now).await {
                Err(failure) => failures.push(failure),
                Ok((proposal, name, status)) => {
                    statuses.push(status);
                    if best.as_ref().is_none_or(|(most, _)| proposal.replicas > *most) {
                        best = Some((proposal.replicas, name));
                    }
                }
            }
        }
        let failure = failures.first().map(|(_, first)| {
            format!(
                "invalid metrics ({} invalid out of {}), first error is: {first}",
                failures.len(),
                metrics.len()
            )
        });
        let best = best.filter(|(most, _)| failures.is_empty() || *most >= scale.replicas);
        let Some((replicas, name)) = best else {
            let (reason, why) = failures.into_iter().next().unwrap_or_default();
            let message = format!("the HPA was unable to compute the replica count: {why}");
            self.tell(round, Notice::warning(reason, why));
            round.state(Statement::new(SCALING_ACTIVE, false, reason, message));
            return Err((statuses, failure.unwrap_or_default()));
        };
        let message =
            format!("the HPA was able to successfully calculate a replica count from {name}");
        round.state(Statement::new(SCALING_ACTIVE, true, "ValidMetricFound", message));
        Ok(Computed { replicas, metric: name, statuses, failure })
    }

    async fn metric(
        &self,
        key: &ObjectKey,
        spec: &HorizontalPodAutoscalerSpec,
        metric: &MetricSpec,
        scale: &Scale,
        pods: &[Arc<Pod>],
        now: Timestamp,
    ) -> Result<(Proposal, String, MetricStatus), Failure> {
        let (resource, container, target) = match (&metric.resource, &metric.container_resource) {
            (Some(source), _) if metric.type_ == "Resource" => {
                (source.name.as_str(), None, &source.target)
            }
            (_, Some(source)) if metric.type_ == "ContainerResource" => {
                (source.name.as_str(), Some(source.container.as_str()), &source.target)
            }
            _ => return Err(unavailable(metric)),
        };
        let reason = match container {
            None => "FailedGetResourceMetric",
            Some(_) => "FailedGetContainerResourceMetric",
        };
        let failed = |why: String| {
            let subject =
                if target.average_utilization.is_some() { "utilization" } else { "usage" };
            (reason, format!("failed to get {resource} {subject}: {why}"))
        };
        let goal = goal(target).ok_or_else(|| {
            let message = "invalid resource metric source: neither an average utilization target \
                           nor an average value (usage) target was set";
            (reason, message.to_owned())
        })?;
        let samples = metrics::read(
            &self.context.client,
            &key.namespace,
            &scale.selector,
            resource,
            container,
        )
        .await
        .map_err(|why| failed(format!("unable to get metrics for resource {resource}: {why}")))?;
        let tolerance = |rules: Option<&HPAScalingRules>| {
            let own = rules.and_then(|rules| Quantity::parse(&rules.tolerance.as_ref()?.0).ok());
            own.map_or(TOLERANCE, |own| own.milli_value() as f64 / 1000.0)
        };
        let behaviour = spec.behavior.as_ref();
        let proposal = replicas::propose(&Observed {
            current: scale.replicas,
            resource,
            container,
            pods,
            samples: &samples,
            goal,
            tolerance: Tolerance {
                down: tolerance(behaviour.and_then(|b| b.scale_down.as_ref())),
                up: tolerance(behaviour.and_then(|b| b.scale_up.as_ref())),
            },
            now,
        })
        .map_err(failed)?;
        let kind = if container.is_some() { "container resource" } else { "resource" };
        let name = match goal {
            Goal::Utilization(_) => {
                format!("{resource} {kind} utilization (percentage of request)")
            }
            Goal::AverageMilli(_) => format!("{resource} {kind}"),
        };
        let status = status::metric(resource, container, &proposal);
        Ok((proposal, name, status))
    }

    fn tell(&self, round: &Round, notice: Notice) {
        self.recorder.record(&round.autoscaler, notice);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, Memory>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn desired_before(round: &Round) -> i32 {
    round.autoscaler.status.as_ref().map_or(0, |status| status.desired_replicas)
}

fn goal(target: &MetricTarget) -> Option<Goal> {
    if let Some(value) = &target.average_value {
        return Some(Goal::AverageMilli(Quantity::parse(&value.0).ok()?.milli_value()));
    }
    target.average_utilization.map(Goal::Utilization)
}

/// Metrics of other sources than the nodes have no server here.
fn unavailable(metric: &MetricSpec) -> Failure {
    let custom = |name: &str| {
        format!(
            "unable to get metric {name}: unable to fetch metrics from custom metrics API: the \
             server could not find the requested resource (get custom.metrics.k8s.io)"
        )
    };
    match (&metric.pods, &metric.object, &metric.external) {
        (Some(source), ..) => {
            let why = custom(&source.metric.name);
            ("FailedGetPodsMetric", format!("failed to get pods metric value: {why}"))
        }
        (_, Some(source), _) => {
            let why = custom(&source.metric.name);
            ("FailedGetObjectMetric", format!("failed to get object metric value: {why}"))
        }
        (.., Some(source)) => {
            let why = format!(
                "unable to get external metric {}: unable to fetch metrics from external metrics \
                 API: the server could not find the requested resource (get \
                 external.metrics.k8s.io)",
                source.metric.name
            );
            ("FailedGetExternalMetric", format!("failed to get external metric value: {why}"))
        }
        _ => ("InvalidMetricSourceType", format!("unknown metric source type {:?}", metric.type_)),
    }
}
