//! What Kafka refuses, in this project's own words: a broker's reply is never quoted. Pure.

use access::kafka::cause::Cause;
use crds::worker::WorkerProblem;
use rdkafka::error::RDKafkaErrorCode;

use crate::health::problem;

/// The reason of a problem that ends when somebody gives this worker's user a right.
pub const KAFKA_REFUSED: &str = "KafkaRefused";

/// Which right Kafka misses in this worker's user; `None` where the code says anything else.
pub fn refusal(code: RDKafkaErrorCode) -> Option<WorkerProblem> {
    let message = match code {
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            "Kafka does not let the processor's user read the topic: give the user Describe and Read on it."
        }
        RDKafkaErrorCode::GroupAuthorizationFailed => {
            "Kafka does not let the processor's user into the consumer group: give the user Read on it."
        }
        _ => return None,
    };
    Some(problem(KAFKA_REFUSED, message))
}

/// Why there is no connection, if that is what the client reports.
pub fn connection_cause(code: RDKafkaErrorCode, text: &str) -> Option<Cause> {
    let is_connection = matches!(
        code,
        RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::SSL
    );
    is_connection.then(|| Cause::of(Some(code), text))
}

/// There is no connection.
pub fn unconnected(bootstrap_servers: &str, cause: Cause) -> WorkerProblem {
    problem(cause.reason().into(), format!("Kafka at {bootstrap_servers} {cause}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_right_is_named() {
        let message = |code| refusal(code).unwrap().message;
        assert!(message(RDKafkaErrorCode::TopicAuthorizationFailed).contains("Describe and Read"));
        assert!(message(RDKafkaErrorCode::GroupAuthorizationFailed).contains("consumer group"));
        assert_eq!(refusal(RDKafkaErrorCode::BrokerTransportFailure), None);
    }

    #[test]
    fn what_is_not_about_connections_hides_no_cause() {
        assert_eq!(connection_cause(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down"), None);
        let cause = connection_cause(RDKafkaErrorCode::SSL, "error: certificate verify failed").unwrap();
        let problem = unconnected("kafka:9094", cause);
        assert_eq!(problem.reason, "KafkaTlsFailed");
        assert!(
            problem.message.starts_with("Kafka at kafka:9094 showed a certificate"),
            "{}",
            problem.message
        );
    }
}
