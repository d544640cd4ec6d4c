//! What can go wrong with Kafka, told so that a person can act on it. No I/O.

use crds::status::Reason;
use rdkafka::{error::KafkaError, types::RDKafkaErrorCode};
use snafu::Snafu;

/// A request to Kafka that failed. Holds error codes of Kafka and librdkafka, never the text of a broker.
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
         the brokers' advertised listeners, network policies and that the brokers run"
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

    /// Kafka agreed, but the topic is not as asked for.
    #[snafu(display("failed to {action}: {found}"))]
    NotAsAsked {
        /// What was to be done.
        action: String,
        /// What was found instead, and what to do.
        found: String,
    },

    /// The task that made the request ended before its time: the operator stops, or it has a fault.
    #[snafu(display("failed to {action}: the request was abandoned"))]
    Abandoned {
        /// What was to be done.
        action: String,
        /// How the task ended.
        source: tokio::task::JoinError,
    },
}

impl Error {
    /// The reason of the condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Setup { .. } | Self::Unreachable { .. } => Reason::KafkaUnreachable,
            Self::Refused { .. } | Self::NotAsAsked { .. } => Reason::KafkaRefused,
            Self::Abandoned { .. } => Reason::ReconcileFailed,
        }
    }

    /// Sorts an error code of librdkafka: a broker that does not answer, or one that refuses.
    pub(super) fn from_code(code: RDKafkaErrorCode, action: &str, bootstrap_servers: &str) -> Self {
        let action = action.to_owned();
        if is_unreachable(code) {
            Self::Unreachable { action, bootstrap_servers: bootstrap_servers.to_owned() }
        } else {
            Self::Refused { action, code }
        }
    }
}

/// Whether nobody answered, or nobody who could.
fn is_unreachable(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::TimedOutQueue
            | Code::RequestTimedOut
            | Code::NetworkException
            | Code::BrokerNotAvailable
            | Code::LeaderNotAvailable
            | Code::NotController
            | Code::SSL
            | Code::Authentication
    )
}

/// What to do about an error code, beginning with `; `; empty where the code says it all.
fn advice(code: RDKafkaErrorCode) -> &'static str {
    use RDKafkaErrorCode as Code;
    match code {
        Code::InvalidReplicationFactor => {
            "; the cluster has fewer brokers than kafka.topic.replicationFactor asks for"
        }
        Code::InvalidConfig => {
            "; a name or value in kafka.topic.config (or the retention) is not one that this Kafka takes"
        }
        Code::InvalidPartitions => "; the cluster does not take this number of partitions",
        Code::PolicyViolation => "; a policy of the cluster (create.topic.policy) forbids it",
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::GroupAuthorizationFailed => {
            "; grant the operator's Kafka user Create, Delete, Describe, Alter, DescribeConfigs and AlterConfigs on \
             the topic"
        }
        Code::TopicDeletionDisabled => {
            "; the cluster has delete.topic.enable=false: delete the topic another way, or let the IoTPipeline go \
             with the annotation iotpipeline.dev/skip-cleanup=true"
        }
        Code::InvalidTopic => {
            "; Kafka takes . and _ in names for the same, so it collides with another topic: choose another \
             kafka.topic.name"
        }
        Code::UnsupportedVersion => "; the brokers are too old (Kafka 2.4 or newer is needed)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_refusal_are_told_apart() {
        let error = |code| Error::from_code(code, "create topic t", "kafka:9092");
        let silence = error(RDKafkaErrorCode::OperationTimedOut);
        assert_eq!(silence.reason(), Reason::KafkaUnreachable);
        assert!(
            silence.to_string().starts_with("failed to create topic t: no answer from Kafka at kafka:9092")
        );

        let refusal = error(RDKafkaErrorCode::InvalidReplicationFactor);
        assert_eq!(refusal.reason(), Reason::KafkaRefused);
        assert_eq!(
            refusal.to_string(),
            "failed to create topic t: Kafka answered InvalidReplicationFactor; the cluster has fewer brokers than \
             kafka.topic.replicationFactor asks for"
        );
    }
}
