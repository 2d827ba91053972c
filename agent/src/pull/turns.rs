//! The turns of pulls: few at the same time, and no namespace or registry has all of them.
//!
//! A pull that waits costs a few hundred bytes and no descriptor. Of those that may run, the one whose
//! namespace has the fewest pulls under way is next, the oldest first. A turn has no end while no
//! pull waits for it; otherwise it is taken back after [`TURN_TIME`], however fast its registry is.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// Pulls at the same time.
const MAX_PULLS: usize = 8;
/// Fewest pulls at the same time, however little the node has: one namespace must not have them all.
const MIN_PULLS: usize = 2;
/// Descriptors that a pull takes of the node: two pipes and its process.
const PULL_DESCRIPTORS: u64 = 3;
/// The part of the node's descriptors that pulls take at the most.
const PULL_DESCRIPTORS_PART: u64 = 8;
/// Memory of the node for each pull, in bytes; one uses some 15 MiB of it as a rule.
const PULL_MEMORY_BYTES: u64 = 64 << 20;
/// Pulls that one registry serves at the same time.
const PULLS_PER_REGISTRY: usize = 3;
/// Of these, pulls of one namespace.
const NAMESPACE_PULLS_PER_REGISTRY: usize = 2;
/// A namespace has at most the half of the pulls that other namespaces leave.
const NAMESPACE_PART: usize = 2;

/// Time that a pull keeps its turn while others wait for it.
pub const TURN_TIME: Duration = Duration::from_secs(300);
/// Time between two attempts of a waiting pull to take a turn back.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Returns how many pulls a node with so much may have at the same time.
pub fn pulls(open_files: u64, memory_bytes: u64) -> usize {
    let by_descriptors = open_files / PULL_DESCRIPTORS_PART / PULL_DESCRIPTORS;
    let by_memory = memory_bytes / PULL_MEMORY_BYTES;
    let pulls = by_descriptors.min(by_memory).min(MAX_PULLS as u64);
    usize::try_from(pulls).unwrap_or(MAX_PULLS).max(MIN_PULLS)
}

/// The names by which a pull is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// The namespace of the pod.
    pub namespace: String,
    /// The registry.
    pub registry: String,
    /// The full reference of the image; two pulls of one image follow each other, so that the second
    /// finds the layers of the first.
    pub image: String,
}

/// The turns.
pub struct Turns {
    max: usize,
    turn_time: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    running: Vec<Running>,
    waiting: VecDeque<(u64, Want, oneshot::Sender<Turn>)>,
}

struct Running {
    id: u64,
    want: Want,
    since: Instant,
    /// Tells the pull that its turn is over; `None` once it did.
    over: Option<oneshot::Sender<()>>,
}

/// A turn; the next pull may begin when it is dropped.
pub struct Turn {
    turns: Arc<Turns>,
    id: u64,
    over: Option<oneshot::Receiver<()>>,
}

impl Turn {
    /// Returns a future that ends when the turn is taken back. The turn still has to be dropped.
    pub fn over(&mut self) -> impl Future<Output = ()> + use<> {
        let over = self.over.take();
        async move {
            // A turn whose sender is gone can no longer be taken back.
            let is_over = match over {
                Some(over) => over.await.is_ok(),
                None => false,
            };
            if !is_over {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Turns {
    /// So many turns at the same time.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, turn_time: TURN_TIME, state: Mutex::default() })
    }

    /// Waits for a turn.
    pub async fn turn(self: &Arc<Self>, want: Want) -> Turn {
        let (id, mut receiver) = {
            let mut state = self.lock();
            let id = state.next;
            state.next += 1;
            // Whatever waits may not run: this one does not overtake it.
            if state.may_run(&want, self.max, None) {
                return self.begin(&mut state, id, want);
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.push_back((id, want.clone(), sender));
            (id, receiver)
        };
        let _waiting = Waiting { turns: self, id };
        loop {
            self.lock().take_back(&want, self.max, self.turn_time);
            if let Ok(turn) = tokio::time::timeout(LOOK_INTERVAL, &mut receiver).await {
                return turn.expect("the sender stays in the queue until it is used");
            }
        }
    }

    fn begin(self: &Arc<Self>, state: &mut State, id: u64, want: Want) -> Turn {
        let (sender, over) = oneshot::channel();
        state.running.push(Running { id, want, since: Instant::now(), over: Some(sender) });
        Turn { turns: self.clone(), id, over: Some(over) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands out turns until none is left.
    fn hand_out(self: &Arc<Self>) {
        let mut refused = Vec::new();
        let mut state = self.lock();
        while let Some((id, want, sender)) = state.next_waiting(self.max) {
            let turn = self.begin(&mut state, id, want);
            // A pull that was given up meanwhile gives its turn back, but not before the lock is.
            refused.extend(sender.send(turn).err());
        }
        drop(state);
        drop(refused);
    }
}

impl State {
    /// Returns whether a pull may run, if the one `without` did not.
    fn may_run(&self, want: &Want, max: usize, without: Option<u64>) -> bool {
        let others = self.running.iter().filter(move |other| Some(other.id) != without);
        let running = || others.clone().map(|other| &other.want);
        let of_registry = || running().filter(|other| other.registry == want.registry);
        let own = |other: &&Want| other.namespace == want.namespace;
        let mine = running().filter(own).count();
        let others = running().count() - mine;
        let share = max.saturating_sub(others).div_ceil(NAMESPACE_PART);
        running().count() < max
            && mine < share
            && of_registry().count() < PULLS_PER_REGISTRY
            && of_registry().filter(own).count() < NAMESPACE_PULLS_PER_REGISTRY
            && running().all(|other| other.image != want.image)
    }

    fn next_waiting(&mut self, max: usize) -> Option<(u64, Want, oneshot::Sender<Turn>)> {
        if self.running.len() >= max {
            return None;
        }
        let waiting = self.waiting.iter().enumerate();
        let able = waiting.filter(|(_, (_, want, _))| self.may_run(want, max, None));
        let (at, _) = able.min_by_key(|(at, (_, want, _))| (self.of_namespace(want), *at))?;
        self.waiting.remove(at)
    }

    fn of_namespace(&self, want: &Want) -> usize {
        self.running.iter().filter(|other| other.want.namespace == want.namespace).count()
    }

    /// Takes back the turn of a pull that had it for long, if `want` may run then: the longest of
    /// the namespace that has the most.
    fn take_back(&mut self, want: &Want, max: usize, turn_time: Duration) {
        let due = |running: &&Running| {
            running.since.elapsed() >= turn_time && self.may_run(want, max, Some(running.id))
        };
        let due = self.running.iter().filter(due);
        let worst = due.max_by_key(|due| (self.of_namespace(&due.want), due.since.elapsed()));
        let Some(id) = worst.map(|worst| worst.id) else { return };
        let running = self.running.iter_mut().find(|running| running.id == id);
        // The receiver ends its pull.
        let _ = running.and_then(|running| running.over.take()).map(|over| over.send(()));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.lock().running.retain(|running| running.id != self.id);
        self.turns.hand_out();
    }
}

/// Takes a pull that is given up out of the queue.
struct Waiting<'a> {
    turns: &'a Turns,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.turns.lock().waiting.retain(|(id, _, _)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Pull = Pin<Box<dyn Future<Output = Turn>>>;

    fn pull(turns: &Arc<Turns>, namespace: &str, registry: &str, image: &str) -> Pull {
        let [namespace, registry, image] = [namespace, registry, image].map(str::to_owned);
        let turns = turns.clone();
        Box::pin(async move { turns.turn(Want { namespace, registry, image }).await })
    }

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn poll(pull: &mut Pull) -> Option<Turn> {
        match pull.as_mut().poll(&mut context()) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    fn running(pulls: &mut [Pull]) -> Vec<Option<Turn>> {
        pulls.iter_mut().map(poll).collect()
    }

    #[tokio::test]
    async fn namespaces_leave_turns_to_others() {
        let turns = Turns::new(8);
        let number = |n: usize| n.to_string();
        let mut held = Vec::new();
        for (namespace, share) in [("a", 4), ("b", 2), ("c", 1), ("d", 1), ("e", 0)] {
            let mut pulls: Vec<Pull> = (0..300)
                .map(|n| pull(&turns, namespace, &number(n), &format!("{namespace}{n}")))
                .collect();
            let given = running(&mut pulls);
            assert_eq!(given.iter().flatten().count(), share, "{namespace}");
            held.push((pulls, given));
        }
        assert_eq!(turns.lock().running.len(), 8);
        // The first turn that comes free is for the namespace that has none.
        let freed = held[0].1.iter_mut().find(|turn| turn.is_some()).and_then(Option::take);
        drop(freed);
        assert!(poll(&mut held[4].0[0]).is_some());
    }

    #[tokio::test]
    async fn one_registry_serves_few_pulls() {
        let turns = Turns::new(8);
        let mut own: Vec<Pull> = (0..4).map(|n| pull(&turns, "a", "r", &n.to_string())).collect();
        let mut other: Vec<Pull> = (4..8).map(|n| pull(&turns, "b", "r", &n.to_string())).collect();
        let own = running(&mut own);
        let other = running(&mut other);
        assert_eq!(own.iter().flatten().count(), NAMESPACE_PULLS_PER_REGISTRY);
        assert_eq!(other.iter().flatten().count(), 1);
    }

    #[tokio::test]
    async fn pulls_of_one_image_follow_each_other() {
        let turns = Turns::new(8);
        let mut first = pull(&turns, "a", "r", "i");
        let mut second = pull(&turns, "b", "r", "i");
        let turn = poll(&mut first);
        assert!(turn.is_some() && poll(&mut second).is_none());
        drop(turn);
        assert!(poll(&mut second).is_some());
    }

    #[tokio::test]
    async fn given_up_pulls_leave_nothing() {
        let turns = Turns::new(2);
        let mut first = pull(&turns, "a", "r", "1");
        let turn = poll(&mut first);
        let mut waiting: Vec<Pull> =
            (2..6).map(|n| pull(&turns, "a", "r", &n.to_string())).collect();
        assert_eq!(running(&mut waiting).iter().flatten().count(), 0);
        drop(waiting.remove(0));
        assert_eq!(turns.lock().waiting.len(), 3);
        // One is handed a turn and does not take it.
        drop(turn);
        assert_eq!(turns.lock().running.len(), 1);
        drop(waiting);
        let state = turns.lock();
        assert!(state.running.is_empty() && state.waiting.is_empty());
    }

    #[tokio::test]
    async fn turns_end_while_others_wait() {
        let turns = Arc::new(Turns { max: 3, turn_time: Duration::ZERO, state: Mutex::default() });
        let mut held: Vec<Turn> = [("a", "1"), ("a", "2"), ("b", "3")]
            .map(|(namespace, image)| poll(&mut pull(&turns, namespace, image, image)).unwrap())
            .into();
        let mut over: Vec<Pin<Box<dyn Future<Output = ()>>>> =
            held.iter_mut().map(|turn| Box::pin(turn.over()) as _).collect();
        let ended = |over: &mut Vec<Pin<Box<dyn Future<Output = ()>>>>| {
            let is_over = |over: &mut Pin<Box<dyn Future<Output = ()>>>| {
                over.as_mut().poll(&mut context()).is_ready()
            };
            over.iter_mut().map(is_over).collect::<Vec<_>>()
        };
        // No pull waits.
        assert_eq!(ended(&mut over), [false; 3]);
        let mut other = pull(&turns, "c", "4", "4");
        assert!(poll(&mut other).is_none());
        assert_eq!(ended(&mut over), [true, false, false]);
        held.remove(0);
        assert!(poll(&mut other).is_some());
    }

    #[test]
    fn small_nodes_pull_less() {
        assert_eq!(pulls(1 << 20, 64 << 30), MAX_PULLS);
        assert_eq!(pulls(1024, 512 << 20), 8);
        assert_eq!(pulls(1024, 256 << 20), 4);
        assert_eq!(pulls(96, 64 << 30), 4);
        assert_eq!(pulls(0, 0), MIN_PULLS);
    }
}
