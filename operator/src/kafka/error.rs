//! What can go wrong with Kafka, told so that a person can act on it. No I/O.

use std::borrow::Cow;

use crds::status::Reason;
use rdkafka::types::RDKafkaErrorCode;
use snafu::Snafu;
use strum::Display;

use super::Cause;

/// A right on a topic, by the name that Kafka gives to the operation.
#[derive(Clone, Copy, Debug, Display, Eq, PartialEq)]
pub enum Right {
    /// To grow to more partitions.
    Alter,
    /// To change settings.
    AlterConfigs,
    /// To create it.
    Create,
    /// To delete it.
    Delete,
    /// To see whether it exists, its partitions and its offsets.
    Describe,
    /// To read its settings.
    DescribeConfigs,
}

/// A request to Kafka that failed. Holds error codes of Kafka and librdkafka, never the text of a broker.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum Error {
    /// The client could not be made.
    #[snafu(display(
        "failed to set up a client for Kafka at {bootstrap_servers}: {}",
        if *encrypted {
            "check that the Secrets of kafka.tls hold certificates that OpenSSL can read, and a private key that \
             belongs to the certificate"
        } else {
            "check kafka.bootstrapServers and kafka.sasl"
        }
    ))]
    Setup {
        /// Where Kafka should be.
        bootstrap_servers: String,
        /// Whether there are certificates, which may be what is wrong.
        encrypted: bool,
    },

    /// There is no working connection.
    #[snafu(display("failed to {action}: Kafka at {bootstrap_servers} {cause}"))]
    Unreachable {
        /// What was to be done.
        action: String,
        /// Where Kafka should be.
        bootstrap_servers: String,
        /// Why not.
        cause: Cause,
    },

    /// The broker refused.
    #[snafu(display("failed to {action}: Kafka answered {code:?}{}", advice(*code, *right)))]
    Refused {
        /// What was to be done.
        action: String,
        /// Kafka's error code.
        code: RDKafkaErrorCode,
        /// The right on the topic that it takes.
        right: Right,
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
            Self::Setup { encrypted, .. } if *encrypted => Reason::KafkaTlsFailed,
            Self::Setup { .. } => Reason::KafkaUnreachable,
            Self::Unreachable { cause, .. } => cause.reason(),
            Self::Refused { .. } | Self::NotAsAsked { .. } => Reason::KafkaRefused,
            Self::Abandoned { .. } => Reason::ReconcileFailed,
        }
    }

    /// Whether this is what brokers say too while a change spreads among them: one that was made the leader of a partition
    /// hears it later than those that clients ask who it is.
    pub(super) fn may_pass(&self) -> bool {
        use RDKafkaErrorCode as Code;
        match self {
            Self::NotAsAsked { .. } => true,
            Self::Refused { code, .. } => {
                matches!(code, Code::NotLeaderForPartition | Code::UnknownTopicOrPartition)
            }
            _ => false,
        }
    }

    /// Sorts an error code of librdkafka: a broker that does not answer, or one that refuses.
    pub(super) fn from_code(
        code: RDKafkaErrorCode,
        right: Right,
        action: &str,
        bootstrap_servers: &str,
    ) -> Self {
        let action = action.to_owned();
        if is_unreachable(code) {
            let cause = Cause::of(Some(code), "");
            Self::Unreachable { action, bootstrap_servers: bootstrap_servers.to_owned(), cause }
        } else {
            Self::Refused { action, code, right }
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
fn advice(code: RDKafkaErrorCode, right: Right) -> Cow<'static, str> {
    use RDKafkaErrorCode as Code;
    Cow::Borrowed(match code {
        Code::InvalidReplicationFactor => {
            "; the cluster has fewer brokers than kafka.topic.replicationFactor asks for"
        }
        Code::InvalidConfig => {
            "; a name or value in kafka.topic.config (or the retention) is not one that this Kafka takes"
        }
        Code::InvalidPartitions => "; the cluster does not take this number of partitions",
        Code::PolicyViolation => "; a policy of the cluster (create.topic.policy) forbids it",
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            return format!(
                "; grant the operator's Kafka user {right} on the topic (docs/security.md lists all rights)"
            )
            .into();
        }
        Code::GroupAuthorizationFailed => {
            return format!(
                "; grant the operator's Kafka user {right} on the consumer group (docs/security.md lists all rights)"
            )
            .into();
        }
        Code::NonEmptyGroup => "; somebody reads in it: stop that, or set deletionPolicy.offsets to Retain",
        Code::TopicDeletionDisabled => {
            "; the cluster has delete.topic.enable=false: delete the topic another way, or let the IoTPipeline go \
             with the annotation iotpipeline.dev/skip-cleanup=true"
        }
        Code::InvalidTopic => {
            "; Kafka takes . and _ in names for the same, so it collides with another topic: choose another \
             kafka.topic.name"
        }
        Code::NotLeaderForPartition => {
            "; the brokers do not agree on who leads a partition: look at them, and at the topic with \
             kafka-topics.sh --describe"
        }
        Code::UnsupportedVersion => "; the brokers are too old (Kafka 2.4 or newer is needed)",
        _ => "",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_refusal_are_told_apart() {
        let error = |code| Error::from_code(code, Right::Create, "create topic t", "kafka:9092");
        let silence = error(RDKafkaErrorCode::OperationTimedOut);
        assert_eq!(silence.reason(), Reason::KafkaUnreachable);
        assert!(
            silence.to_string().starts_with("failed to create topic t: Kafka at kafka:9092 did not answer")
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
