//! Whose workers are replaced now, where it is the operator that wants it: an operator of another version wants other pods
//! for every pipeline, and all at once they would be a burden for nodes, brokers and databases. So a few pipelines at a time
//! are let through; the others keep their pods. What a person changes in a spec never waits. No I/O.
//!
//! What is known can be lost: an operator that starts lets a few more through.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::broadcast;

use crate::memory::PipelineKey;

/// How long others wait for workers that worked before. Those that take longer may never be ready again, and nobody
/// waits for them any more.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long others wait for workers that did not work before either.
const LITTLE_PATIENCE: Duration = Duration::from_secs(60);

/// How many turns a listener may be behind. A pipeline whose turn is missed asks again at its next look.
const TURNS_KEPT: usize = 1024;

/// How the workers of a pipeline stand to what this operator wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// They are what it wants, and all ready.
    Complete,
    /// They are being replaced, or are not ready.
    Incomplete,
    /// They shall be replaced, although nobody has changed the spec.
    Outdated {
        /// Whether all of them are ready as they are.
        work: bool,
    },
}

/// The pipelines whose workers are replaced, and those that wait.
#[derive(Debug)]
pub struct Rollouts {
    at_once: usize,
    state: Mutex<State>,
    turns: broadcast::Sender<PipelineKey>,
}

#[derive(Debug, Default)]
struct State {
    /// Until when others wait for it.
    underway: HashMap<PipelineKey, Instant>,
    /// Who has waited longest comes first.
    waiting: VecDeque<PipelineKey>,
}

impl Rollouts {
    /// So many at a time.
    pub fn new(at_once: u16) -> Self {
        let (turns, _) = broadcast::channel(TURNS_KEPT);
        Self { at_once: at_once.into(), state: Mutex::default(), turns }
    }

    /// Whether the workers of a pipeline may be replaced now. Called by each reconciliation, before it applies.
    pub fn admit(&self, key: &PipelineKey, stage: Stage, now: Instant) -> bool {
        let mut state = self.lock();
        state.underway.retain(|_, until| *until > now);
        let is_admitted = match stage {
            Stage::Complete => {
                state.underway.remove(key);
                true
            }
            Stage::Incomplete => true,
            Stage::Outdated { .. } if state.underway.contains_key(key) => true,
            Stage::Outdated { work } => {
                let has_room = state.underway.len() < self.at_once;
                if has_room {
                    let patience = if work { PATIENCE } else { LITTLE_PATIENCE };
                    state.underway.insert(key.clone(), now + patience);
                }
                has_room
            }
        };
        let is_waiting = state.waiting.contains(key);
        if is_admitted && is_waiting {
            state.waiting.retain(|waiting| waiting != key);
        } else if !is_admitted && !is_waiting {
            state.waiting.push_back(key.clone());
        }
        self.call_next(&state);
        is_admitted
    }

    /// A pipeline is gone, or nothing can be done to its workers: it neither waits nor is waited for.
    pub fn forget(&self, key: &PipelineKey) {
        let mut state = self.lock();
        state.underway.remove(key);
        state.waiting.retain(|waiting| waiting != key);
        self.call_next(&state);
    }

    /// The pipelines that have waited and need not any more, as it happens.
    pub fn turns(&self) -> broadcast::Receiver<PipelineKey> {
        self.turns.subscribe()
    }

    /// Tells as many of those that wait as there is room for.
    fn call_next(&self, state: &State) {
        let room = self.at_once.saturating_sub(state.underway.len());
        for key in state.waiting.iter().take(room) {
            // Nobody listens while the operator stops.
            let _ = self.turns.send(key.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTDATED: Stage = Stage::Outdated { work: true };

    fn key(name: &str) -> PipelineKey {
        ("plant-7".to_owned(), name.to_owned())
    }

    #[test]
    fn a_few_at_a_time_are_replaced_and_the_next_is_called() {
        let (rollouts, now) = (Rollouts::new(2), Instant::now());
        let mut turns = rollouts.turns();
        let admitted = |name: &str, stage| rollouts.admit(&key(name), stage, now);
        assert!(admitted("a", OUTDATED) && admitted("b", OUTDATED));
        assert!(!admitted("c", OUTDATED) && !admitted("d", OUTDATED) && !admitted("c", OUTDATED));
        assert!(admitted("a", OUTDATED), "a write that failed is tried again");
        assert!(admitted("a", Stage::Incomplete));
        assert!(turns.try_recv().is_err(), "there is no room yet");
        assert!(admitted("a", Stage::Complete));
        assert_eq!(turns.try_recv().unwrap(), key("c"));
        assert!(turns.try_recv().is_err());
        assert!(admitted("c", OUTDATED) && !admitted("d", OUTDATED));
        rollouts.forget(&key("b"));
        assert_eq!(turns.try_recv().unwrap(), key("d"));
    }

    #[test]
    fn what_never_becomes_ready_holds_nobody_up_for_ever() {
        let (rollouts, begun) = (Rollouts::new(1), Instant::now());
        let admitted = |name: &str, stage, seconds| {
            rollouts.admit(&key(name), stage, begun + Duration::from_secs(seconds))
        };
        assert!(admitted("worked", OUTDATED, 0));
        assert!(!admitted("broken", Stage::Outdated { work: false }, 599));
        assert!(admitted("broken", Stage::Outdated { work: false }, 601));
        assert!(!admitted("next", OUTDATED, 660));
        assert!(admitted("next", OUTDATED, 662));
    }

    #[test]
    fn what_a_person_changed_neither_waits_nor_takes_a_turn() {
        let (rollouts, now) = (Rollouts::new(1), Instant::now());
        assert!(rollouts.admit(&key("edited"), Stage::Incomplete, now));
        assert!(rollouts.admit(&key("a"), OUTDATED, now));
        assert!(rollouts.admit(&key("edited"), Stage::Incomplete, now));
    }
}
