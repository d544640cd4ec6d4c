//! How to reach Kafka.

pub mod cause;

use std::fmt;

use crds::pipeline::SaslMechanism;
use rdkafka::ClientConfig;

use crate::tls::TlsMaterial;

/// A Kafka cluster and who one is there. Equal accesses may share a connection; one whose Secrets were rotated is
/// another.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct KafkaAccess {
    /// Comma-separated `host:port`.
    pub bootstrap_servers: String,
    /// Certificates, where the connection is to be encrypted.
    pub tls: Option<TlsMaterial>,
    /// User and password, where the brokers ask for them.
    pub sasl: Option<SaslAccess>,
}

/// A user of Kafka. Holds the password, so its `Debug` hides it.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct SaslAccess {
    /// How the password is shown to the broker.
    pub mechanism: SaslMechanism,
    /// The user.
    pub username: String,
    /// The user's password.
    pub password: String,
}

impl KafkaAccess {
    /// The settings of a client that connects so, to which its own are added. They hold secrets: never print them.
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap_servers).set("security.protocol", self.protocol());
        if let Some(TlsMaterial { ca, client }) = &self.tls {
            match ca {
                Some(ca) => config.set("ssl.ca.pem", ca),
                // Looks where Linux distributions keep the certificate authorities that they trust.
                None => config.set("ssl.ca.location", "probe"),
            };
            if let Some(client) = client {
                config.set("ssl.certificate.pem", &client.certificate).set("ssl.key.pem", &client.key);
            }
        }
        if let Some(SaslAccess { mechanism, username, password }) = &self.sasl {
            config
                .set("sasl.mechanism", mechanism.kafka_name())
                .set("sasl.username", username)
                .set("sasl.password", password);
        }
        config
    }

    fn protocol(&self) -> &'static str {
        match (&self.tls, &self.sasl) {
            (None, None) => "PLAINTEXT",
            (Some(_), None) => "SSL",
            (None, Some(_)) => "SASL_PLAINTEXT",
            (Some(_), Some(_)) => "SASL_SSL",
        }
    }
}

impl fmt::Debug for SaslAccess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SaslAccess")
            .field("mechanism", &self.mechanism)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::ClientCertificate;

    fn access(tls: Option<TlsMaterial>, sasl: Option<SaslAccess>) -> KafkaAccess {
        KafkaAccess { bootstrap_servers: "kafka.kafka.svc:9092".to_owned(), tls, sasl }
    }

    fn sasl() -> SaslAccess {
        SaslAccess {
            mechanism: SaslMechanism::ScramSha512,
            username: "iot".to_owned(),
            password: "hunter2".to_owned(),
        }
    }

    #[test]
    fn the_protocol_follows_from_what_is_given() {
        let protocol =
            |tls, sasl| access(tls, sasl).client_config().get("security.protocol").map(str::to_owned);
        assert_eq!(protocol(None, None).as_deref(), Some("PLAINTEXT"));
        assert_eq!(protocol(Some(TlsMaterial::default()), None).as_deref(), Some("SSL"));
        assert_eq!(protocol(None, Some(sasl())).as_deref(), Some("SASL_PLAINTEXT"));
        assert_eq!(protocol(Some(TlsMaterial::default()), Some(sasl())).as_deref(), Some("SASL_SSL"));
    }

    #[test]
    fn certificates_and_user_reach_the_client() {
        let client = ClientCertificate { certificate: "certificate".to_owned(), key: "key".to_owned() };
        let tls = TlsMaterial { ca: Some("ca".to_owned()), client: Some(client) };
        let config = access(Some(tls), Some(sasl())).client_config();
        for (name, value) in [
            ("ssl.ca.pem", "ca"),
            ("ssl.certificate.pem", "certificate"),
            ("ssl.key.pem", "key"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "iot"),
            ("sasl.password", "hunter2"),
        ] {
            assert_eq!(config.get(name), Some(value), "{name}");
        }
    }

    #[test]
    fn debug_hides_the_password() {
        assert!(!format!("{:?}", access(None, Some(sasl()))).contains("hunter2"));
    }
}
