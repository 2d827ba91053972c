//! How fast a workload may grow and shrink: stabilisation windows, policies, bounds.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// How long a workload that has no rules of its own stays large after its load has gone.
const STABILISATION: SignedDuration = SignedDuration::from_mins(5);
/// Without rules of its own, a workload at most doubles, or grows to this.
const GROWTH_MINIMUM: i32 = 4;

/// What an autoscaler remembers between rounds.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// What was recommended, and when.
    pub recommendations: Vec<(Timestamp, i32)>,
    /// By how much the workload was changed, and when.
    pub changes: Vec<(Timestamp, i32)>,
}

/// One decision.
pub struct Wish<'a> {
    /// The rules, if there are any.
    pub behaviour: Option<&'a HorizontalPodAutoscalerBehavior>,
    /// The fewest replicas.
    pub min: i32,
    /// The most replicas.
    pub max: i32,
    /// How many are wanted now.
    pub current: i32,
    /// How many the metrics ask for.
    pub desired: i32,
    /// The time.
    pub now: Timestamp,
}

/// Reason and message of a condition.
pub type Why = (&'static str, &'static str);

/// What becomes of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// How many replicas there shall be.
    pub replicas: i32,
    /// Why the wish was stabilised, if it was.
    pub stabilised: Option<Why>,
    /// Whether a bound was met.
    pub limited: bool,
    /// Which.
    pub why: Why,
}

const WITHIN: Why = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_MANY: Why =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Why =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const UP_LIMIT: Why =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: Why = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);
const STAYS_HIGH: Why = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent \
     recommendation",
);
const STAYS_LOW: Why = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent \
     recommendation",
);

/// Grants what the rules allow, and remembers the wish.
pub fn grant(wish: &Wish<'_>, memory: &mut Memory) -> Granted {
    let stable = stabilise(wish, memory);
    memory.recommendations.push((wish.now, wish.desired));
    let stabilised = (stable != wish.desired).then_some({
        if wish.behaviour.is_some() && wish.desired >= wish.current {
            STAYS_LOW
        } else {
            STAYS_HIGH
        }
    });
    let (replicas, why) = match wish.behaviour {
        None => bound(wish, stable),
        Some(behaviour) => pace(wish, behaviour, stable, memory),
    };
    Granted { replicas, stabilised, limited: replicas != stable, why }
}

fn window(rules: Option<&HPAScalingRules>, default: SignedDuration) -> SignedDuration {
    let seconds = rules.and_then(|rules| rules.stabilization_window_seconds);
    seconds.map_or(default, |seconds| SignedDuration::from_secs(i64::from(seconds)))
}

/// The wish within what was recommended lately.
fn stabilise(wish: &Wish<'_>, memory: &mut Memory) -> i32 {
    let rules = wish.behaviour;
    let down = window(rules.and_then(|rules| rules.scale_down.as_ref()), STABILISATION);
    let up = window(rules.and_then(|rules| rules.scale_up.as_ref()), SignedDuration::ZERO);
    let age = |at: Timestamp| wish.now.duration_since(at);
    memory.recommendations.retain(|(at, _)| age(*at) < down.max(up));
    let within = |window: SignedDuration| {
        let recent = memory.recommendations.iter().filter(move |(at, _)| age(*at) < window);
        recent.map(|(_, replicas)| *replicas).chain([wish.desired])
    };
    let highest = within(down).max().unwrap_or(wish.desired);
    if rules.is_none() {
        return highest;
    }
    let lowest = within(up).min().unwrap_or(wish.desired);
    wish.current.max(lowest).min(highest)
}

/// The bounds of a workload without rules of its own.
fn bound(wish: &Wish<'_>, desired: i32) -> (i32, Why) {
    let pace = wish.current.saturating_mul(2).max(GROWTH_MINIMUM);
    let (most, why) = if wish.max > pace { (pace, UP_LIMIT) } else { (wish.max, TOO_MANY) };
    if desired < wish.min {
        (wish.min, TOO_FEW)
    } else if desired > most {
        (most, why)
    } else {
        (desired, WITHIN)
    }
}

/// The bounds by policies.
fn pace(
    wish: &Wish<'_>,
    behaviour: &HorizontalPodAutoscalerBehavior,
    desired: i32,
    memory: &Memory,
) -> (i32, Why) {
    if desired > wish.current {
        let limit = limit(wish, behaviour.scale_up.as_ref(), memory, true).max(wish.current);
        let (most, why) = if wish.max > limit { (limit, UP_LIMIT) } else { (wish.max, TOO_MANY) };
        if desired > most {
            return (most, why);
        }
    } else if desired < wish.current {
        let limit = limit(wish, behaviour.scale_down.as_ref(), memory, false).min(wish.current);
        let (least, why) = if wish.min < limit { (limit, DOWN_LIMIT) } else { (wish.min, TOO_FEW) };
        if desired < least {
            return (least, why);
        }
    }
    (desired, WITHIN)
}

/// How far the policies of one direction let the workload go.
fn limit(wish: &Wish<'_>, rules: Option<&HPAScalingRules>, memory: &Memory, up: bool) -> i32 {
    let Some(rules) = rules else { return if up { wish.max } else { wish.min } };
    let select = rules.select_policy.as_deref().unwrap_or("Max");
    if select == "Disabled" {
        return wish.current;
    }
    let policies = rules.policies.as_deref().unwrap_or_default();
    let proposals = policies.iter().map(|policy| {
        let period = SignedDuration::from_secs(i64::from(policy.period_seconds));
        let recent = memory.changes.iter().filter(|(at, _)| wish.now.duration_since(*at) < period);
        // The size at the start of the period is the present one without what has changed since.
        let start = recent.fold(wish.current, |size, (_, change)| size.saturating_sub(*change));
        let sign: i32 = if up { 1 } else { -1 };
        if policy.type_ == "Pods" {
            start.saturating_add(policy.value.saturating_mul(sign))
        } else {
            let scaled =
                f64::from(start) * (1.0 + f64::from(sign) * f64::from(policy.value) / 100.0);
            // A float becomes the nearest number that fits.
            (if up { scaled.ceil() } else { scaled.trunc() }) as i32
        }
    });
    // The policy that changes most is the highest upwards and the lowest downwards.
    let best = if (select == "Min") == up { proposals.min() } else { proposals.max() };
    best.unwrap_or(wish.current)
}

/// Remembers that the workload was changed, and forgets what no policy looks back at.
pub fn remember(
    memory: &mut Memory,
    behaviour: Option<&HorizontalPodAutoscalerBehavior>,
    change: i32,
    now: Timestamp,
) {
    let rules = behaviour.into_iter().flat_map(|b| [b.scale_up.as_ref(), b.scale_down.as_ref()]);
    let policies = rules.flatten().flat_map(|rules| rules.policies.iter().flatten());
    let longest = policies.map(|policy| policy.period_seconds).max().unwrap_or(0);
    let longest = SignedDuration::from_secs(i64::from(longest));
    memory.changes.retain(|(at, _)| now.duration_since(*at) < longest);
    memory.changes.push((now, change));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    struct World {
        behaviour: Option<HorizontalPodAutoscalerBehavior>,
        memory: Memory,
        current: i32,
        now: Timestamp,
    }

    impl World {
        fn new(behaviour: Value, current: i32) -> Self {
            let now: Timestamp = "2024-01-01T00:00:00Z".parse().unwrap();
            let memory = Memory { recommendations: vec![(now, current)], changes: Vec::new() };
            Self { behaviour: serde_json::from_value(behaviour).unwrap(), memory, current, now }
        }

        fn ask(&mut self, after: i64, desired: i32) -> (i32, &'static str) {
            self.now += SignedDuration::from_secs(after);
            let wish = Wish {
                behaviour: self.behaviour.as_ref(),
                min: 1,
                max: 20,
                current: self.current,
                desired,
                now: self.now,
            };
            let granted = grant(&wish, &mut self.memory);
            if granted.replicas != self.current {
                let change = granted.replicas - self.current;
                remember(&mut self.memory, self.behaviour.as_ref(), change, self.now);
            }
            self.current = granted.replicas;
            let why = granted.stabilised.map_or(granted.why.0, |why| why.0);
            (granted.replicas, if granted.limited { granted.why.0 } else { why })
        }
    }

    #[test]
    fn without_rules_growth_doubles_and_shrinking_waits() {
        let mut world = World::new(json!(null), 2);
        assert_eq!(world.ask(15, 9), (4, "ScaleUpLimit"));
        assert_eq!(world.ask(15, 30), (8, "ScaleUpLimit"));
        assert_eq!(world.ask(15, 9), (16, "ScaleUpLimit"));
        assert_eq!(world.ask(15, 3), (20, "TooManyReplicas"));
        assert_eq!(world.ask(280, 3), (9, "ScaleDownStabilized"));
        assert_eq!(world.ask(300, 0), (1, "TooFewReplicas"));
    }

    #[test]
    fn policies_set_the_pace() {
        let mut world = World::new(
            json!({
                "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
                    "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]},
                "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Min", "policies": [
                    {"type": "Percent", "value": 50, "periodSeconds": 60},
                    {"type": "Pods", "value": 1, "periodSeconds": 60}]}
            }),
            2,
        );
        assert_eq!(world.ask(15, 9), (4, "ScaleUpLimit"));
        assert_eq!(world.ask(15, 9), (4, "ScaleUpLimit"));
        assert_eq!(world.ask(60, 9), (6, "ScaleUpLimit"));
        assert_eq!(world.ask(60, 1), (5, "ScaleDownLimit"));
        assert_eq!(world.ask(15, 1), (5, "ScaleDownLimit"));
        assert_eq!(world.ask(60, 4), (4, "DesiredWithinRange"));
    }

    #[test]
    fn windows_and_disabled_directions_hold() {
        let policy = json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]);
        let mut world = World::new(
            json!({
                "scaleUp": {"stabilizationWindowSeconds": 30, "policies": policy},
                "scaleDown": {"selectPolicy": "Disabled", "policies": policy}
            }),
            2,
        );
        assert_eq!(world.ask(15, 4), (2, "ScaleUpStabilized"));
        assert_eq!(world.ask(20, 4), (4, "DesiredWithinRange"));
        world.memory.recommendations.clear();
        assert_eq!(world.ask(15, 1), (4, "ScaleDownLimit"));
    }
}
