//! Why there is no working connection to Kafka: sorts what librdkafka says of its attempts.
//!
//! What it says may hold words of the broker, so none of it is passed on: it is searched for words of librdkafka's
//! and OpenSSL's own, and told in ours.

use std::fmt;

use crds::status::Reason;
use rdkafka::types::RDKafkaErrorCode;

/// Why there is no working connection. What says more comes later: of several causes the last one is told.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Cause {
    /// Nobody answers.
    Silence,
    /// No name of a host is known.
    UnknownHost,
    /// Somebody hangs up on a client that does not speak TLS, as brokers that do would.
    TlsExpected,
    /// Somebody hangs up on a client that names no user, as brokers that ask for one would.
    UserExpected,
    /// Somebody hangs up on a client that speaks TLS, as brokers that do not would.
    TlsUnexpected,
    /// The brokers do not speak TLS.
    TlsNotSpoken,
    /// The handshake failed otherwise.
    TlsFailed,
    /// The brokers' certificate is not one to trust.
    ServerCertificateRefused,
    /// The brokers want a client certificate, or another one.
    ClientCertificateRefused,
    /// The brokers do not know this way of showing a password.
    MechanismRefused,
    /// The brokers do not know the user, or another password.
    PasswordRefused,
}

/// Words by which a cause is known, the first match counting.
const WORDS: [(&str, Cause); 18] = [
    ("certificate verify failed", Cause::ServerCertificateRefused),
    ("alert bad certificate", Cause::ClientCertificateRefused),
    ("alert certificate expired", Cause::ClientCertificateRefused),
    ("alert certificate required", Cause::ClientCertificateRefused),
    ("alert certificate revoked", Cause::ClientCertificateRefused),
    ("alert certificate unknown", Cause::ClientCertificateRefused),
    ("alert unknown ca", Cause::ClientCertificateRefused),
    ("alert unsupported certificate", Cause::ClientCertificateRefused),
    ("alert access denied", Cause::ClientCertificateRefused),
    ("alert decrypt error", Cause::ClientCertificateRefused),
    ("wrong version number", Cause::TlsNotSpoken),
    ("packet length too long", Cause::TlsNotSpoken),
    ("record layer failure", Cause::TlsNotSpoken),
    ("connecting to a PLAINTEXT broker listener", Cause::TlsUnexpected),
    ("during SSL connection handshake", Cause::TlsUnexpected),
    ("SSL handshake failed", Cause::TlsFailed),
    ("SSL routines", Cause::TlsFailed),
    ("Failed to resolve", Cause::UnknownHost),
];

impl Cause {
    /// What an error of a connection stands for.
    pub fn of(code: Option<RDKafkaErrorCode>, text: &str) -> Self {
        if code == Some(RDKafkaErrorCode::Authentication) {
            // The words after these are the broker's.
            return if text.contains("mechanism handshake failed") {
                Self::MechanismRefused
            } else {
                Self::PasswordRefused
            };
        }
        let by_words = WORDS.iter().find(|(words, _)| text.contains(words)).map(|(_, cause)| *cause);
        by_words.unwrap_or(match code {
            Some(RDKafkaErrorCode::SSL) => Self::TlsFailed,
            Some(RDKafkaErrorCode::Resolve) => Self::UnknownHost,
            _ if text.contains("Disconnected") => Self::of_hanging_up(text),
            _ => Self::Silence,
        })
    }

    /// What the state of a connection says that the other side closed.
    fn of_hanging_up(text: &str) -> Self {
        if text.contains("in state APIVERSION_QUERY") {
            Self::TlsExpected
        } else if text.contains("in state UP") {
            Self::UserExpected
        } else {
            Self::Silence
        }
    }

    /// Whether trying longer will not help, unless another broker answers.
    pub fn is_an_answer(self) -> bool {
        self > Self::TlsUnexpected
    }

    /// The reason of a condition or of a worker's problem.
    pub fn reason(self) -> Reason {
        match self {
            Self::Silence
            | Self::UnknownHost
            | Self::TlsExpected
            | Self::UserExpected
            | Self::TlsUnexpected => Reason::KafkaUnreachable,
            Self::TlsNotSpoken
            | Self::TlsFailed
            | Self::ServerCertificateRefused
            | Self::ClientCertificateRefused => Reason::KafkaTlsFailed,
            Self::MechanismRefused | Self::PasswordRefused => Reason::KafkaAuthenticationFailed,
        }
    }
}

/// The rest of a sentence that begins with Kafka and its address.
impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Silence => {
                "did not answer; check the address, the brokers' advertised listeners, network policies \
                 and that the brokers run"
            }
            Self::UnknownHost => {
                "was not found: a name in kafka.bootstrapServers, or one that the brokers advertise, is not known \
                 to DNS"
            }
            Self::TlsExpected => {
                "hung up; either it is starting or stopping, or this port speaks TLS: then set kafka.tls (to {} \
                 where a public authority signed the brokers' certificate), or name another port"
            }
            Self::UserExpected => {
                "hung up; either it is starting or stopping, or this port asks for a user: then set kafka.sasl, or \
                 name another port"
            }
            Self::TlsUnexpected => {
                "hung up; either it is starting or stopping, or this port does not speak TLS: then remove kafka.tls, \
                 or name another port"
            }
            Self::TlsNotSpoken => "does not speak TLS at this port; remove kafka.tls, or name another port",
            Self::TlsFailed => {
                "broke off the TLS handshake; check that this port speaks TLS 1.2 or later, and the brokers' logs"
            }
            Self::ServerCertificateRefused => {
                "showed a certificate that cannot be trusted: the authority that signed it is not in ca.crt of the \
                 Secret kafka.tls.caSecretRef (without that, not among the system's), or it does not name the host \
                 in kafka.bootstrapServers or the brokers' advertised listeners, or it has expired"
            }
            Self::ClientCertificateRefused => {
                "wants a client certificate, or another one: check tls.crt and tls.key (Strimzi: user.crt and \
                 user.key) of the Secret kafka.tls.clientSecretRef, that the brokers trust who signed it, and that \
                 it has not expired"
            }
            Self::MechanismRefused => {
                "does not know the mechanism of kafka.sasl at this port; set kafka.sasl.mechanism to one that is \
                 enabled there"
            }
            Self::PasswordRefused => {
                "refused the user: check kafka.sasl.username, that the user has a password for \
                 kafka.sasl.mechanism, and the key of the Secret that kafka.sasl.passwordSecretRef names"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_librdkafka_says_is_sorted() {
        use RDKafkaErrorCode as Code;
        let cases = [
            (
                Code::BrokerTransportFailure,
                "h:1: Connect to ipv4#10.0.0.1:1 failed: Connection refused",
                Cause::Silence,
            ),
            (Code::Resolve, "h:1: Failed to resolve 'h:1': Name or service not known", Cause::UnknownHost),
            (
                Code::SSL,
                "h:1: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker certificate \
                 could not be verified",
                Cause::ServerCertificateRefused,
            ),
            (
                Code::BrokerTransportFailure,
                "h:1: Receive failed: error:0A00045C:SSL routines::tlsv13 alert certificate required: SSL alert number 116",
                Cause::ClientCertificateRefused,
            ),
            (
                Code::BrokerTransportFailure,
                "h:1: SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener? (after 9ms in \
                 state SSL_HANDSHAKE)",
                Cause::TlsUnexpected,
            ),
            (
                Code::BrokerTransportFailure,
                "h:1: Disconnected: connection closed by peer: receive 0 after POLLIN (after 9ms in state \
                 APIVERSION_QUERY)",
                Cause::TlsExpected,
            ),
            (
                Code::BrokerTransportFailure,
                "h:1: Disconnected: connection closed by peer: receive 0 after POLLIN (after 9ms in state UP)",
                Cause::UserExpected,
            ),
            (
                Code::SSL,
                "h:1: SSL handshake failed: error:0A00010B:SSL routines::wrong version number",
                Cause::TlsNotSpoken,
            ),
            (
                Code::SSL,
                "h:1: SSL handshake failed: error:0A000410:SSL routines::alert handshake failure",
                Cause::TlsFailed,
            ),
            (
                Code::Authentication,
                "h:1: SASL authentication error: Authentication failed",
                Cause::PasswordRefused,
            ),
            (
                Code::Authentication,
                "h:1: SASL PLAIN mechanism handshake failed: Broker: Unsupported SASL mechanism: broker's supported \
                 mechanisms: SCRAM-SHA-512",
                Cause::MechanismRefused,
            ),
        ];
        for (code, text, cause) in cases {
            assert_eq!(Cause::of(Some(code), text), cause, "{text}");
        }
    }

    #[test]
    fn a_broker_cannot_choose_its_words() {
        let text = "h:1: SASL authentication error: certificate verify failed";
        assert_eq!(Cause::of(Some(RDKafkaErrorCode::Authentication), text), Cause::PasswordRefused);
    }
}
