//! What a new connection remembers of the session that the broker keeps: that nothing of its own is under way.
//!
//! rumqttc wants to know before it resumes a session that another process began. The bridge never publishes,
//! makes its subscriptions anew at each start, and gets what it has not acknowledged again from the broker, so an
//! empty memory is the true one. (Its policy `AllowBrokerOnly` would resume as well, but then refuses SUBSCRIBE.)

use std::pin::Pin;

use rumqttc_v5::{PersistedAckMode, PersistedSession, SessionStore, SessionStoreError, SessionStoreKey};

use super::v5::OUTGOING_IN_FLIGHT;

/// Always answers an empty session, and keeps nothing.
#[derive(Debug)]
pub struct NothingUnderWay;

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

impl SessionStore for NothingUnderWay {
    fn load<'a>(&'a self, key: &'a SessionStoreKey) -> Answer<'a, Option<PersistedSession>> {
        let session = PersistedSession {
            format_version: 1,
            client_id: key.client_id().to_owned(),
            clean_start: false,
            session_expiry_interval: None,
            outgoing_inflight_upper_limit: Some(OUTGOING_IN_FLIGHT),
            ack_mode: PersistedAckMode::Manual,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        };
        Box::pin(async { Ok(Some(session)) })
    }

    fn save<'a>(&'a self, _: &'a SessionStoreKey, _: &'a PersistedSession) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn clear<'a>(&'a self, _: &'a SessionStoreKey) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}
