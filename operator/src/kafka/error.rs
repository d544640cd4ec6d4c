//! What can go wrong with Kafka, told so that a person can act on it. No I/O.

use crds::status::Reason;
use rdkafka::{error::KafkaError, types::RDKafkaErrorCode};
use snafu::Snafu;

/// A request to Kafka that failed.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum Error {
    /// The client could not be made: the bootstrap servers are not usable.
    #[snafu(display("failed to set up a client for Kafka at {bootstrap_servers}"))]
    Setup {
        /// Where Kafka should be.
        bootstrap_servers: String,
        /// What librdkafka says.
        source: KafkaError,
    },

    /// No answer within the deadline.
    #[snafu(display(
        "failed to {action}: no answer from Kafka at {bootstrap_servers} within 10 s; check the address, \
         the network policy and that the brokers run"
    ))]
    Unreachable {
        /// What was to be done.
        action: String,
        /// Where Kafka should be.
        bootstrap_servers: String,
    },

    /// The broker refused.
    #[snafu(display("failed to {action}: Kafka answered {code:?}{}", advice(*code)))]
    Refused {
        /// What was to be done.
        action: String,
        /// Kafka's error code.
        code: RDKafkaErrorCode,
    },

    /// Kafka said yes, but the topic is not as asked for.
    #[snafu(display("failed to {action}: Kafka agreed, but {found}"))]
    NotAsAsked {
        /// What was to be done.
        action: String,
        /// What was found instead.
        found: String,
    },
}

impl Error {
    /// The reason of the condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Setup { .. } | Self::Unreachable { .. } => Reason::KafkaUnreachable,
            Self::Refused { .. } | Self::NotAsAsked { .. } => Reason::KafkaRefused,
        }
    }
}

/// What to do about an error code, beginning with `; `; empty where the code says it all.
fn advice(code: RDKafkaErrorCode) -> &'static str {
    match code {
        RDKafkaErrorCode::InvalidReplicationFactor => {
            "; the cluster has fewer brokers than replicationFactor"
        }
        _ => "",
    }
}
