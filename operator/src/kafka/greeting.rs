//! Finds out whether there is a working connection to Kafka, and why not. I/O.
//!
//! librdkafka tries to connect for ever, lets requests wait meanwhile and says in callbacks only what went wrong;
//! and its admin client never calls them. So a client of another kind goes first.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use access::kafka::KafkaAccess;
use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::KafkaError,
    producer::{BaseProducer, DeliveryResult, Producer, ProducerContext},
};

use super::{
    Cause, Error,
    connection::{DEADLINE, client_config},
    error::{SetupSnafu, UnreachableSnafu},
};

/// How long another broker may take to answer after one has refused.
const GRACE: Duration = Duration::from_secs(1);

/// How long to wait between two looks.
const INTERVAL: Duration = Duration::from_millis(50);

/// Connects, and learns the brokers' names. Fails soon where a broker refuses.
pub(super) fn greet(access: &KafkaAccess, action: &str) -> Result<(), Error> {
    let bootstrap_servers = access.bootstrap_servers.as_str();
    let listener = Listener::new(access);
    let client: BaseProducer<Listener> = client_config(access)
        .set_log_level(RDKafkaLogLevel::Info)
        .create_with_context(listener.clone())
        .map_err(|_| SetupSnafu { bootstrap_servers, encrypted: access.tls.is_some() }.build())?;
    let mut deadline = Instant::now() + DEADLINE;
    let mut refused = false;
    while Instant::now() < deadline {
        if client.client().fetch_cluster_id(INTERVAL).is_some() {
            return Ok(());
        }
        client.poll(Duration::from_millis(1));
        if !refused && listener.heard().is_an_answer() {
            refused = true;
            deadline = deadline.min(Instant::now() + GRACE);
        }
    }
    UnreachableSnafu { action, bootstrap_servers, cause: listener.heard() }.fail()
}

/// Remembers what librdkafka says of failed attempts.
#[derive(Clone)]
struct Listener {
    heard: Arc<Mutex<Cause>>,
    encrypted: bool,
    has_user: bool,
}

impl Listener {
    fn new(access: &KafkaAccess) -> Self {
        Self {
            heard: Arc::new(Mutex::new(Cause::Silence)),
            encrypted: access.tls.is_some(),
            has_user: access.sasl.is_some(),
        }
    }

    fn hear(&self, cause: Cause) {
        let is_excluded = match cause {
            Cause::TlsExpected => self.encrypted,
            Cause::UserExpected => self.has_user,
            _ => false,
        };
        if !is_excluded {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            *heard = (*heard).max(cause);
        }
    }

    fn heard(&self) -> Cause {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Listener {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        // A broker that hangs up is no error to librdkafka, but worth a line.
        if facility == "FAIL" {
            self.hear(Cause::of(None, message));
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.hear(Cause::of(error.rdkafka_error_code(), reason));
    }
}

impl ProducerContext for Listener {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}
