//! The end of a pipeline's MQTT session: once the session holds nothing more, the broker forgets it.

use std::time::Duration;

use crds::worker::{BridgeConfig, Retirement};
use tokio::time;

use super::{BACKOFF, Bridge, metrics::BridgeMetrics, read_login, waits};
use crate::{
    health::{Health, problem},
    source::mqtt::{
        self, BROKER_REFUSED, BROKER_UNREACHABLE, Event, Failure, SessionUse, subscriptions::Subscriptions,
    },
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

/// Whether a broker that refuses a bridge which leaves has dropped its session by now: it has not seen the bridge for longer
/// than it was to keep it. Only of bridges that share: others need not wait for one alone, and may have a spool to empty.
fn has_expired(config: &BridgeConfig, reason: &str, absent: Duration) -> bool {
    let expiry = Duration::from_secs(config.session_expiry_seconds.into());
    config.retire && config.shared.is_some() && reason == BROKER_REFUSED && absent > expiry
}

impl Bridge {
    /// Has the broker forget the session, and stays to say so.
    pub(super) async fn end_session(mut self) {
        let mut waits = waits();
        while !self.context.shutdown.is_requested() {
            let ended = time::timeout(PATIENCE, self.forget()).await.unwrap_or_else(|_| {
                let message = format!("The MQTT broker did not end the session within {PATIENCE:?}.");
                Err(Failure { reason: BROKER_UNREACHABLE, message })
            });
            match ended {
                Ok(()) => break,
                Err(failure) if self.session_has_expired(&failure) => return self.give_session_up().await,
                Err(failure) => self.wait_after(failure, waits.next().unwrap_or(BACKOFF.1)).await,
            }
        }
        if self.context.shutdown.is_requested() {
            return;
        }
        tracing::info!("The session at the MQTT broker has ended");
        self.stay_retired().await;
    }

    /// Whether there is no session left to end.
    pub(super) fn session_has_expired(&self, failure: &Failure) -> bool {
        has_expired(&self.config, failure.reason, self.absent_since.elapsed())
    }

    /// Takes the session for ended, so that the other bridges need not wait for this one.
    pub(super) async fn give_session_up(self) {
        tracing::warn!(
            client_id = self.config.client_id,
            "The MQTT broker has refused this client for longer than spec.mqtt.sessionExpiry: its session, if it had \
             one, has expired with what was left in it"
        );
        self.stay_retired().await;
    }

    /// Says that the session has ended until the worker is asked to stop.
    async fn stay_retired(mut self) {
        let passed_on = self.metrics.delivered.get();
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_session_is_given_up_only_once_the_broker_has_dropped_it() {
        let mut config: BridgeConfig = serde_json::from_value(json!({
            "host": "m", "port": 1883, "transport": "tcp",
            "tls": {"hasCa": false, "hasClientCertificate": false}, "alpn": [],
            "protocolVersion": "V5", "clientId": "c-n-p_1", "subscriptions": [],
            "unsubscribe": [], "retire": true, "sessionExpirySeconds": 60,
            "maxPacketSizeBytes": 1048576, "maxInFlight": 1000, "maxInFlightBytes": 16777216,
            "hasCredentials": false, "key": {"topicLevel": 1}, "maxRecordBytes": 2097152,
            "shared": {"retireFrom": 1}
        }))
        .unwrap();
        let [before, after] = [59, 61].map(Duration::from_secs);
        assert!(has_expired(&config, BROKER_REFUSED, after));
        assert!(!has_expired(&config, BROKER_REFUSED, before));
        // It may come back with all that it kept.
        assert!(!has_expired(&config, BROKER_UNREACHABLE, after));
        config.retire = false;
        assert!(!has_expired(&config, BROKER_REFUSED, after), "a bridge that stays tries for ever");
        (config.retire, config.shared) = (true, None);
        assert!(!has_expired(&config, BROKER_REFUSED, after), "something may be in its spool");
    }
}
