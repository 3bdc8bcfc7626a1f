//! The thread that walks over layers which no quota counts.
//!
//! It takes the layers in turn, each not before the configured interval is over, nor before twenty times the work of its last
//! walk is: a large layer costs no more than a twentieth of the time. In each second it does no more than the budget allows, then
//! it pauses, in the middle of a layer if need be. A layer that nobody has asked about for some minutes is left alone, and so is
//! one whose container has ended, after a last walk. The thread is started by the first question, and while there is nothing to
//! do it sleeps without a time.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::walk::{Broken, Budget, Sum, Walk};
use super::{UPPER, Usage, WORK, open};
use crate::config::DiskConfig;
use crate::id::ContainerId;
use crate::sys::{clock, fs, priority};

/// How long a question keeps its layer walked over.
const REMEMBERED: Duration = Duration::from_secs(120);

/// The time between two walks over a layer is at least so many times the work of one.
const REST: u32 = 20;

/// What the budget is for.
const ROUND: Duration = Duration::from_secs(1);

/// How often a walk begins anew because directories are moved under it.
const ATTEMPTS: usize = 3;

/// The layers that are walked over.
pub(super) struct Walker {
    shared: Arc<Shared>,
}

struct Shared {
    containers: PathBuf,
    interval: Duration,
    entries: u64,
    work: Duration,
    // Held for a look at all layers; never over a walk.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    layers: HashMap<ContainerId, Layer>,
    /// The thread was started.
    started: bool,
    /// The thread is to end.
    closed: bool,
}

struct Layer {
    usage: Option<Usage>,
    asked: Option<Instant>,
    due: Instant,
    life: Life,
    gone: Arc<AtomicBool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Changing,
    /// One more walk finds all that there will be.
    Ended,
    /// That walk is done.
    Known,
}

/// A layer whose turn it is.
struct Turn {
    container: ContainerId,
    life: Life,
    gone: Arc<AtomicBool>,
}

impl Walker {
    pub(super) fn new(config: &DiskConfig, containers: &Path) -> Self {
        let shared = Shared {
            containers: containers.to_owned(),
            interval: Duration::from_secs(config.walk_interval_seconds),
            entries: config.walk_entries,
            work: Duration::from_millis(config.walk_milliseconds),
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Takes a layer into the round.
    pub(super) fn add(&self, container: &ContainerId) {
        let layer = Layer {
            usage: None,
            asked: None,
            due: Instant::now(),
            life: Life::Changing,
            gone: Arc::default(),
        };
        self.shared.lock().layers.insert(container.clone(), layer);
    }

    /// Takes it out; a walk over it ends at the next file.
    pub(super) fn remove(&self, container: &ContainerId) {
        if let Some(layer) = self.shared.lock().layers.remove(container) {
            layer.gone.store(true, Ordering::Relaxed);
            self.shared.changed.notify_one();
        }
    }

    /// Its layer changes no more.
    pub(super) fn ended(&self, container: &ContainerId) {
        if let Some(layer) = self.shared.lock().layers.get_mut(container)
            && layer.life == Life::Changing
        {
            layer.life = Life::Ended;
        }
    }

    /// The containers in the round.
    pub(super) fn containers(&self) -> Vec<ContainerId> {
        self.shared.lock().layers.keys().cloned().collect()
    }

    /// What the last walk found. The question has the next one made.
    pub(super) fn usage(&self, container: &ContainerId) -> Option<Usage> {
        let mut state = self.shared.lock();
        let now = Instant::now();
        let layer = state.layers.get_mut(container)?;
        let (usage, sleeps) = (layer.usage, !layer.is_asked_for(now));
        layer.asked = Some(now);
        if sleeps {
            self.shared.wake(&mut state);
        }
        usage
    }
}

impl Drop for Walker {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        for layer in state.layers.values() {
            layer.gone.store(true, Ordering::Relaxed);
        }
        self.shared.changed.notify_one();
    }
}

impl Layer {
    fn is_asked_for(&self, now: Instant) -> bool {
        self.asked.is_some_and(|asked| now.duration_since(asked) < REMEMBERED)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the thread look at what there is to do, and starts it if need be.
    fn wake(self: &Arc<Self>, state: &mut State) {
        if !state.started {
            let shared = Arc::clone(self);
            let thread = thread::Builder::new().name("podd-disk".to_owned());
            let started = thread.spawn(move || {
                priority::give_way();
                shared.walk_all();
            });
            match started {
                Ok(_) => state.started = true,
                Err(error) => {
                    tracing::warn!("the thread that walks over writable layers cannot start: {error}")
                }
            }
        }
        self.changed.notify_one();
    }

    fn walk_all(&self) {
        let mut pace = Pace { shared: self, began: Instant::now(), entries: self.entries, work: self.work };
        while let Some(turn) = self.next() {
            let (found, took) = self.walk(&turn, &mut pace);
            self.publish(&turn, found, took);
        }
    }

    /// Waits for the next layer whose turn it is; `None` at the end.
    fn next(&self) -> Option<Turn> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let now = Instant::now();
            let asked_for = |layer: &Layer| layer.life != Life::Known && layer.is_asked_for(now);
            let wanted = state.layers.iter().filter(|(_, layer)| asked_for(layer));
            let waited = match wanted.min_by_key(|(_, layer)| layer.due) {
                None => self.changed.wait(state),
                Some((container, layer)) if layer.due <= now => {
                    let (container, gone) = (container.clone(), Arc::clone(&layer.gone));
                    return Some(Turn { container, life: layer.life, gone });
                }
                Some((_, layer)) => {
                    let left = layer.due - now;
                    let waited = self.changed.wait_timeout(state, left);
                    waited.map(|(state, _)| state).map_err(|poisoned| {
                        let (state, _) = poisoned.into_inner();
                        PoisonError::new(state)
                    })
                }
            };
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What a walk finds, or what it found before it broke off, and how long it worked.
    fn walk(&self, turn: &Turn, pace: &mut Pace<'_>) -> (Result<Sum, (Broken, Sum)>, Duration) {
        let mut took = Duration::ZERO;
        let mut most: Option<(Broken, Sum)> = None;
        for _ in 0..ATTEMPTS {
            let mut sum = Sum::default();
            match self.walk_once(turn, pace, &mut sum, &mut took) {
                Ok(()) => return (Ok(sum), took),
                Err(error) => {
                    let before = most.map(|(_, sum)| sum).unwrap_or_default();
                    most = Some((error, if sum.bytes() > before.bytes() { sum } else { before }));
                    if error != Broken::Moved {
                        break;
                    }
                }
            }
        }
        (most.map_or(Ok(Sum::default()), Err), took)
    }

    fn walk_once(
        &self,
        turn: &Turn,
        pace: &mut Pace<'_>,
        sum: &mut Sum,
        took: &mut Duration,
    ) -> Result<(), Broken> {
        for directory in self.directories(&turn.container)? {
            let mut walk = Walk::begin(directory, *sum)?;
            loop {
                pace.wait(&turn.gone);
                let began = Instant::now();
                let mut budget = Budget::new(pace.entries, began + pace.work, &turn.gone);
                let ended = walk.go_on(&mut budget);
                pace.entries = budget.entries();
                pace.work = pace.work.saturating_sub(began.elapsed());
                *took += began.elapsed();
                *sum = walk.sum;
                if ended? || turn.gone.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn directories(&self, container: &ContainerId) -> Result<[OwnedFd; 2], Broken> {
        let containers = fs::open_directory(&self.containers);
        let containers = containers
            .map_err(|e| Broken::Io(rustix::io::Errno::from_io_error(&e).unwrap_or(rustix::io::Errno::IO)))?;
        Ok([open(&containers, container, UPPER)?, open(&containers, container, WORK)?])
    }

    fn publish(&self, turn: &Turn, found: Result<Sum, (Broken, Sum)>, took: Duration) {
        let mut state = self.lock();
        let Some(layer) = state.layers.get_mut(&turn.container) else { return };
        let of = |sum: Sum| Usage { bytes: sum.bytes(), inodes: sum.inodes(), at: clock::now() };
        match found {
            Ok(sum) => {
                layer.usage = Some(of(sum));
                if turn.life == Life::Ended {
                    layer.life = Life::Known;
                }
            }
            // At least so much is there.
            Err((Broken::Moved, sum)) => {
                if layer.usage.is_none_or(|usage| usage.bytes < sum.bytes()) {
                    layer.usage = Some(of(sum));
                }
            }
            Err((Broken::Io(error), _)) => {
                tracing::debug!(container = %turn.container, %error, "cannot walk over a writable layer");
            }
        }
        layer.due = Instant::now() + self.interval.max(took * REST);
    }
}

/// What is left of the budget of this second.
struct Pace<'a> {
    shared: &'a Shared,
    began: Instant,
    entries: u64,
    work: Duration,
}

impl Pace<'_> {
    /// Pauses until there is some, or until there is no need any more.
    fn wait(&mut self, gone: &AtomicBool) {
        while self.entries == 0 || self.work.is_zero() {
            let left = ROUND.saturating_sub(self.began.elapsed());
            if left.is_zero() {
                break;
            }
            let state = self.shared.lock();
            if gone.load(Ordering::Relaxed) {
                return;
            }
            // A wake comes for other reasons, too.
            drop(self.shared.changed.wait_timeout(state, left));
        }
        if self.began.elapsed() >= ROUND {
            (self.began, self.entries, self.work) = (Instant::now(), self.shared.entries, self.shared.work);
        }
    }
}

#[cfg(test)]
impl Walker {
    pub(super) fn is_started(&self) -> bool {
        self.shared.lock().started
    }

    /// What is known of a layer, without a question.
    pub(super) fn known(&self, container: &ContainerId) -> Option<Usage> {
        self.shared.lock().layers.get(container)?.usage
    }
}
