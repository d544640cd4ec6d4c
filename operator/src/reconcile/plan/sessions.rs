//! How many bridges there are, and which of them leave. Pure.
//!
//! A bridge that leaves for good takes its session with it: it is told to retire, unsubscribes, passes on what the broker
//! holds for it and ends the session. Only once it has said so does its pod go. All of it is decided anew each time, from how
//! many sessions there may be and what the pods say: so whoever goes on in the middle does the right thing, and a session
//! whose pod was deleted by force, or with its StatefulSet, gets a bridge again that ends it.

use crds::{
    IoTPipeline,
    status::Reason,
    worker::{Component, RoleConfig},
};
use serde_json::Value;

use crate::{
    change::Note,
    pipeline::Pipeline,
    reconcile::{
        fetch::{LiveChild, Workers},
        sessions::{is_shared, known_sessions, leaving_from, retirement},
    },
};

/// The sessions of bridges that share their subscriptions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sessions {
    /// How many there may be once this plan is being made true.
    pub meanwhile: i32,
    /// How many there may be once it is; `None` where there is one that nobody shares.
    pub afterwards: Option<i32>,
    /// What a person should know of them.
    pub note: Option<Note>,
    /// Whether something is waited for that no event tells of.
    pub are_changing: bool,
}

impl Sessions {
    /// How many there may be, once what was planned for the bridges was written, or was not.
    pub fn after(&self, is_written: bool) -> Option<i32> {
        if is_written { self.afterwards } else { Some(self.meanwhile) }
    }
}

/// The bridges of a moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Staff {
    /// How many there are.
    replicas: i32,
    /// The first ordinal that leaves.
    retire_from: Option<i32>,
}

/// The pipeline with the bridges that it has for now, and their sessions; `None` where there is one bridge, which shares
/// nothing and never did.
pub fn with_sessions(
    mut pipeline: Pipeline,
    object: &IoTPipeline,
    workers: &Workers,
) -> (Pipeline, Option<Sessions>) {
    let name = pipeline.id.name.clone();
    let known = known_sessions(object, workers);
    let Some(bridge) = pipeline.bridge.as_mut() else { return (pipeline, None) };
    let RoleConfig::Bridge(config) = &mut bridge.config.role else { return (pipeline, None) };
    let shall_share = config.shared.is_some();
    if !shall_share && known == 1 {
        return (pipeline, None);
    }
    let spool_is_closing = config.spool.is_some_and(|spool| spool.closing);
    if bridge.replicas == 0 || spool_is_closing {
        // Sessions wait; and a volume, while it is emptied, belongs to one bridge.
        bridge.replicas = bridge.replicas.min(1);
        if known > 1 {
            config.share(None);
        }
        let sessions = Sessions {
            meanwhile: known,
            afterwards: Some(known),
            note: None,
            are_changing: spool_is_closing && bridge.replicas > 0,
        };
        return (pipeline, Some(sessions));
    }
    let live = workers.workload(&name, Component::Bridge);
    let running = workers.bridge_configuration(&name).unwrap_or_default();
    let wanted = bridge.replicas;
    let welcome = wanted.min(most_welcome(live, &running).max(known));
    let retiring_from = leaving_from(&running);
    // What a bridge said of an earlier retirement is nothing to this one.
    let has_ended = |ordinal: &i32| {
        let bridge = live.filter(|_| retiring_from.is_some_and(|from| from <= *ordinal));
        bridge
            .and_then(|bridge| retirement(workers, bridge, *ordinal))
            .is_some_and(|retirement| retirement.ended)
    };
    let staff = staff(welcome, known, retiring_from, has_ended);
    bridge.replicas = staff.replicas;
    if shall_share || staff.retire_from.is_some() {
        config.share(staff.retire_from.map(i32::unsigned_abs));
    }
    if staff.replicas > 1 {
        // Of a spec that shares no more. It comes once the others have left.
        (bridge.spool, config.spool) = (None, None);
    }
    let note = staff.retire_from.map(|from| {
        let left = (from..staff.replicas).filter(|ordinal| !has_ended(ordinal)).count();
        leaving(from, staff.replicas, left)
    });
    let sessions = match staff.retire_from {
        Some(_) => Some(staff.replicas),
        None => shall_share.then_some(staff.replicas),
    };
    let are_changing = staff.retire_from.is_some() || welcome < wanted;
    (
        pipeline,
        Some(Sessions { meanwhile: known.max(staff.replicas), afterwards: sessions, note, are_changing }),
    )
}

/// With how many bridges, of `wanted`, and from which ordinal on they leave, where the broker may have so many sessions.
/// `retiring_from` is the ordinal from which on those that run leave already.
fn staff(wanted: i32, sessions: i32, retiring_from: Option<i32>, has_ended: impl Fn(&i32) -> bool) -> Staff {
    // Those that leave are led to the end, though some may be wanted again; but for when all are.
    let from = retiring_from.map_or(wanted, |retiring| retiring.min(wanted)).max(0);
    if sessions <= wanted || (from..sessions).all(|ordinal| has_ended(&ordinal)) {
        Staff { replicas: wanted, retire_from: None }
    } else {
        Staff { replicas: sessions, retire_from: Some(from) }
    }
}

/// Up to how many bridges others may join. As long as the first one still has filters for itself alone, they would have its
/// messages a second time; and it has them until it runs with the configuration that ends them.
fn most_welcome(live: Option<&LiveChild>, running: &Value) -> i32 {
    let Some(rollout) = live.map(LiveChild::rollout) else { return i32::MAX };
    let unsubscribed = running["role"]["bridge"]["unsubscribe"].as_array().into_iter().flatten();
    let mut unsubscribed = unsubscribed.filter_map(Value::as_str);
    let runs = rollout.wanted > 0 && rollout.is_complete();
    let has_its_own =
        !is_shared(running) || (unsubscribed.any(|filter| !filter.starts_with(crds::names::SHARE)) && !runs);
    if has_its_own { rollout.wanted.max(1) } else { i32::MAX }
}

fn leaving(from: i32, to: i32, left: usize) -> Note {
    let last = to - 1;
    let who = if from == last {
        format!("bridge {from} leaves")
    } else {
        format!("bridges {from} to {last} leave")
    };
    Note {
        reason: Reason::BridgesLeaving,
        message: format!(
            "{who}: what the MQTT broker holds for them is passed on and their sessions are ended, before their pods go; \
             {left} not done yet"
        ),
    }
}

#[cfg(test)]
mod tests;
