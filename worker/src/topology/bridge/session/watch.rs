//! How a session fares: readiness, gauges, and the answers that the broker owes.

use std::{sync::Arc, time::Duration};

use tokio::time;

use super::{Parts, Phase, Session};
use crate::{
    health::problem,
    source::mqtt::{BROKER_UNREACHABLE, Failure},
    topology::bridge::outlet::{Outlet, RECORD_TOO_LARGE, spool_failed},
};

/// Kafka is taken for gone when a message has waited so long for it.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(10);

/// The same where there is a spool to go on with.
const DELIVERY_PATIENCE_WITH_SPOOL: Duration = Duration::from_secs(3);

/// How long the broker may take to answer SUBSCRIBE and UNSUBSCRIBE.
const SUBSCRIBE_PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait before asking again for what the broker refused.
const REFUSED_WAIT: Duration = Duration::from_secs(60);

impl Session<'_> {
    /// Says once a second how things stand, and ends the session where the broker owes an answer.
    pub(super) async fn watch(&self) -> Failure {
        let mut ticks = time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.parts.health.turned();
            self.assess();
            if let Err(failure) = self.check_subscriptions().and_then(|()| self.check_outlet()) {
                return failure;
            }
            if let Some(producer) =
                self.parts.outlet.producer().filter(|producer| producer.deliveries().all_brokers_down())
            {
                let producer = Arc::clone(producer);
                // A failed question leaves the mark as it is; a successful one removes it.
                let _ = tokio::task::spawn_blocking(move || producer.check_topic()).await;
            }
        }
    }

    fn check_subscriptions(&self) -> Result<(), Failure> {
        let state = self.state.borrow();
        let Phase::Connected { subscribed_at } = state.phase else { return Ok(()) };
        if !state.subscriptions.are_answered() && subscribed_at.elapsed() > SUBSCRIBE_PATIENCE {
            let message = format!(
                "The MQTT broker did not answer SUBSCRIBE or UNSUBSCRIBE within {SUBSCRIBE_PATIENCE:?}."
            );
            return Err(Failure { reason: BROKER_UNREACHABLE, message });
        }
        let ask_again = state.subscriptions.are_answered()
            && !(state.subscriptions.are_granted() && state.subscriptions.are_ended())
            && subscribed_at.elapsed() > REFUSED_WAIT;
        drop(state);
        if ask_again { self.subscribe(true) } else { Ok(()) }
    }

    /// Ends the session where its messages had better go elsewhere.
    fn check_outlet(&self) -> Result<(), Failure> {
        match self.parts.outlet {
            Outlet::Kafka(_) if self.parts.spool.is_some() && self.is_late(DELIVERY_PATIENCE_WITH_SPOOL) => {
                Err(self.slow())
            }
            Outlet::Kafka(_) => Ok(()),
            Outlet::Spool(spooling) => {
                spooling.writer.failure().map_or(Ok(()), |what| Err(spool_failed(&what)))
            }
        }
    }

    /// Whether a message has waited so long to be safe.
    fn is_late(&self, patience: Duration) -> bool {
        let oldest = self.state.borrow().window.oldest();
        oldest.is_some_and(|arrived| arrived.elapsed() > patience)
    }

    /// Works out readiness and the gauges.
    pub(super) fn assess(&self) {
        let Parts { health, metrics, outlet, spool, .. } = &self.parts;
        if let Some(spool) = spool {
            self.parts.say_level(spool.level());
        }
        let late = self.is_late(DELIVERY_PATIENCE);
        let state = self.state.borrow();
        metrics.in_flight.set(i64::try_from(state.window.len()).unwrap_or(i64::MAX));
        metrics.in_flight_bytes.set(i64::try_from(state.window.bytes()).unwrap_or(i64::MAX));
        self.say_retirement(state.window.len());
        if !matches!(state.phase, Phase::Connected { .. }) || !state.subscriptions.are_answered() {
            return;
        }
        let trouble = state.subscriptions.problem();
        if !state.subscriptions.are_granted() {
            health.set_not_ready(trouble.unwrap_or_else(|| problem("Starting", "Subscribing.")));
        } else if outlet.deliveries().all_brokers_down() || late {
            let Failure { reason, message } = self.slow();
            health.set_not_ready(problem(reason, message));
        } else if let Some(spooling) = outlet.spooling() {
            let Failure { reason, message } = spooling.failure();
            health.set_ready_with_problem(problem(reason, message));
        } else if state.stubbed {
            health.set_ready_with_problem(problem(
                RECORD_TOO_LARGE,
                "A message was larger than a record of the Kafka topic may be. Its first bytes, length and hash are a \
                 dead letter. Raise the topic's max.message.bytes, or lower spec.mqtt.maxPacketSize.",
            ));
        } else if let Some(trouble) = trouble {
            health.set_ready_with_problem(trouble);
        } else {
            health.set_ready();
        }
    }
}
