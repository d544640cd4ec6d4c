//! How a session ends in order: nothing is taken any more, Kafka has what was taken, the broker has the
//! acknowledgements.

use std::{
    future,
    time::{Duration, Instant},
};

use tokio::time;

use super::{Leaving, Parts, Phase, Session};
use crate::{health::problem, topology::bridge::retirement};

/// How long an end waits for Kafka.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);

/// How long an end waits for the broker to take the last acknowledgements and DISCONNECT.
const DISCONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// The mounted Secrets of Kafka are looked at every so many seconds: its client keeps those it was made with.
const LOOK_AT_SECRETS_EVERY: u32 = 10;

/// A session without subscriptions that was quiet for so long holds nothing more.
const QUIET: Duration = Duration::from_secs(5);

impl Session<'_> {
    /// Waits for a reason to end the session; then takes nothing more, waits for Kafka, and has the acknowledgements
    /// that are due and DISCONNECT written by `drive`.
    pub(super) async fn leave(&self) -> Leaving {
        let mut shutdown = self.parts.shutdown.clone();
        let leaving = tokio::select! {
            () = shutdown.requested() => Leaving::Stop,
            leaving = self.reason_to_leave() => leaving,
        };
        if leaving == Leaving::Stop {
            self.parts.health.set_not_ready(problem("Stopping", "The worker was asked to stop."));
        }
        let connected = matches!(self.phase(), Phase::Connected { .. });
        self.state.borrow_mut().phase = Phase::Leaving(leaving);
        self.room.notify_one();
        if !connected {
            return leaving;
        }
        let deadline = Instant::now() + FLUSH_PATIENCE;
        while !self.state.borrow().window.is_empty() && Instant::now() < deadline {
            time::sleep(Duration::from_millis(5)).await;
        }
        let unacknowledged = self.state.borrow().window.len();
        if unacknowledged > 0 {
            tracing::warn!(unacknowledged, "Kafka did not take all messages: the MQTT broker keeps them");
        }
        if self.parts.client.disconnect(DISCONNECT_PATIENCE).is_ok() {
            // `drive` ends the session once DISCONNECT is written.
            time::sleep(DISCONNECT_PATIENCE).await;
        }
        leaving
    }

    async fn reason_to_leave(&self) -> Leaving {
        let mut ticks = time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut seconds: u32 = 0;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.drained() => {
                    tracing::info!("Kafka has what was in the spool: messages go there again");
                    return Leaving::Renew;
                }
            }
            if self.parts.config.retire && self.is_drained() {
                return Leaving::Drained;
            }
            seconds = seconds.wrapping_add(1);
            if seconds.is_multiple_of(LOOK_AT_SECRETS_EVERY) && self.has_other_access() {
                tracing::info!("The Secrets of Kafka have changed: a new session begins with them");
                return Leaving::Renew;
            }
        }
    }

    /// Returns once the spool is empty, where messages go to it.
    async fn drained(&self) {
        match self.parts.outlet.spooling() {
            Some(spooling) => spooling.progress.drained().await,
            None => future::pending().await,
        }
    }

    fn is_drained(&self) -> bool {
        let state = self.state.borrow();
        // What is in the spool is on its way too.
        self.parts.outlet.spooling().is_none()
            && matches!(state.phase, Phase::Connected { .. })
            && state.subscriptions.are_ended()
            && state.window.is_empty()
            && state.last_arrival.elapsed() >= QUIET
    }

    /// Whether Kafka is to be reached in another way than the producer does. Secrets that cannot be read leave things
    /// as they are: the next session tells.
    fn has_other_access(&self) -> bool {
        let Some(producer) = self.parts.outlet.producer() else { return false };
        (self.parts.secrets.kafka(self.parts.kafka)).is_ok_and(|access| access != *producer.access())
    }

    /// Says how far the session of a pipeline that goes is emptied.
    pub(super) fn say_retirement(&self, in_flight: usize) {
        let Parts { config, health, metrics, spool, .. } = &self.parts;
        let spooled = spool.map_or(0, |spool| spool.level().messages);
        retirement::say(config, health, metrics, in_flight as u64 + spooled);
    }
}
