//! The end of a pipeline's MQTT session: once the session holds nothing more, the broker forgets it.

use std::time::Duration;

use crds::worker::{BridgeConfig, Retirement};
use tokio::time;

use super::{BACKOFF, Bridge, metrics::BridgeMetrics, read_login, waits};
use crate::{
    health::{Health, problem},
    source::mqtt::{self, BROKER_UNREACHABLE, Event, Failure, SessionUse, subscriptions::Subscriptions},
};

/// How long the broker may take to forget a session.
const PATIENCE: Duration = Duration::from_secs(20);

/// What to subscribe to and what to unsubscribe from: of a pipeline that goes, everything.
pub fn subscriptions(config: &BridgeConfig) -> Subscriptions {
    let mut unwanted = config.unsubscribe.clone();
    if !config.retire {
        return Subscriptions::new(config.subscriptions.clone(), unwanted);
    }
    unwanted.extend(config.subscriptions.iter().map(|subscription| subscription.filter.clone()));
    Subscriptions::new(Vec::new(), unwanted)
}

/// Tells how far a pipeline that goes has come: `in_flight` messages are not in Kafka yet.
pub fn say(config: &BridgeConfig, health: &Health, metrics: &BridgeMetrics, in_flight: u64) {
    if config.retire {
        health.set_retirement(Retirement { ended: false, passed_on: metrics.delivered.get(), in_flight });
    }
}

impl Bridge {
    /// Has the broker forget the session, and stays to say so until the worker is asked to stop.
    pub(super) async fn end_session(mut self) {
        let mut waits = waits();
        while !self.context.shutdown.is_requested() {
            let ended = time::timeout(PATIENCE, self.forget()).await.unwrap_or_else(|_| {
                let message = format!("The MQTT broker did not end the session within {PATIENCE:?}.");
                Err(Failure { reason: BROKER_UNREACHABLE, message })
            });
            match ended {
                Ok(()) => break,
                Err(failure) => self.wait_after(failure, waits.next().unwrap_or(BACKOFF.1)).await,
            }
        }
        if self.context.shutdown.is_requested() {
            return;
        }
        let passed_on = self.metrics.delivered.get();
        tracing::info!(passed_on, "The session at the MQTT broker has ended");
        self.context.health.set_retirement(Retirement { ended: true, passed_on, in_flight: 0 });
        self.context.health.set_ready();
        let mut ticks = time::interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                _ = ticks.tick() => self.context.health.turned(),
                () = self.context.shutdown.requested() => break,
            }
        }
        self.context.health.set_not_ready(problem("Stopping", "The worker was asked to stop."));
    }

    /// A connection that throws the session away and leaves none behind.
    async fn forget(&self) -> Result<(), Failure> {
        let login = read_login(&self.config, &self.context.secrets)?;
        let (client, mut events) = mqtt::connect(&self.config, login, SessionUse::End)?;
        loop {
            match events.poll().await? {
                Event::Connected { .. } => client.disconnect(PATIENCE)?,
                Event::Disconnected => return Ok(()),
                _ => {}
            }
        }
    }
}
