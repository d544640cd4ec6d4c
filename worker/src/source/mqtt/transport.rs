//! What MQTT is spoken over, whichever its version: TCP, TLS, and WebSockets on either. TLS is put on here rather
//! than by rumqttc, so that what is gathered ([`Corked`]) is encrypted in one piece.

use std::{error::Error, io, sync::Arc};

use access::tls::TlsMaterial;
use crds::worker::{BridgeConfig, MqttTransport};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::error::Elapsed};
use tokio_rustls::TlsConnector;

use super::{
    BROKER_UNREACHABLE, Failure,
    corked::{Corked, LastWords, Stream},
    tls,
};

/// The broker, or something before it, hung up.
pub const CLOSED_CONNECTION: &str = "closed the connection";
/// The broker has fallen silent.
pub const NO_PINGRESP: &str = "did not answer PINGREQ";
/// The broker, or a name server, does not answer.
pub const NO_ANSWER: &str = "did not answer within 10 s";
/// Something else answers WebSockets there.
pub const NO_MQTT_WEBSOCKET: &str = "does not offer MQTT as a WebSocket protocol there: check spec.mqtt.url";

/// Where the broker is and how it is reached, for one connection.
#[derive(Clone, Debug)]
pub struct Transport {
    host: String,
    port: u16,
    path: Option<String>,
    tls: Option<(Arc<ClientConfig>, TlsMaterial)>,
    last_words: LastWords,
}

impl Transport {
    /// Over what `config` says, with the certificates of `material` where it is encrypted.
    pub fn new(config: &BridgeConfig, material: TlsMaterial) -> Result<Self, Failure> {
        let (path, is_encrypted) = match &config.transport {
            MqttTransport::Tcp => (None, false),
            MqttTransport::Tls => (None, true),
            MqttTransport::WebSocket(path) => (Some(path.clone()), false),
            MqttTransport::SecureWebSocket(path) => (Some(path.clone()), true),
        };
        let tls =
            is_encrypted.then(|| Ok((tls::client_config(&material, &config.alpn)?, material))).transpose()?;
        Ok(Self { host: config.host.clone(), port: config.port, path, tls, last_words: LastWords::default() })
    }

    /// `host:port`, for a person.
    pub fn broker(&self) -> String {
        format!("{}:{}", self.authority_host(), self.port)
    }

    /// The URL that a WebSocket handshake asks for. Its scheme never says that TLS is beneath: rumqttc would put
    /// it on a second time.
    pub fn websocket_url(&self) -> Option<String> {
        let path = self.path.as_ref()?;
        let usual_port = if self.tls.is_some() { 443 } else { 80 };
        let port = if self.port == usual_port { String::new() } else { format!(":{}", self.port) };
        let slash = if path.starts_with('/') { "" } else { "/" };
        Some(format!("ws://{}{port}{slash}{path}", self.authority_host()))
    }

    fn authority_host(&self) -> String {
        let is_ipv6 = self.host.contains(':') && !self.host.starts_with('[');
        if is_ipv6 { format!("[{}]", self.host) } else { self.host.clone() }
    }

    /// Connects, and shakes hands where the connection is encrypted.
    pub async fn open(self) -> io::Result<Corked> {
        let host = self.host.trim_matches(['[', ']']).to_owned();
        let addresses = tokio::net::lookup_host((host.as_str(), self.port))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::NotFound))?
            .collect::<Vec<_>>();
        let stream = TcpStream::connect(addresses.as_slice()).await?;
        stream.set_nodelay(true)?;
        let Some((config, _)) = self.tls else {
            return Ok(Corked::new(Stream::Plain(stream), self.last_words));
        };
        let name = ServerName::try_from(host).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Corked::new(Stream::Encrypted(Box::new(stream)), self.last_words))
    }

    /// The code with which an MQTT 5 broker ended the connection, where rumqttc did not understand it.
    pub fn disconnect_code(&self) -> Option<u8> {
        self.last_words.disconnect_code()
    }

    /// What an error means that is not of MQTT itself. Nothing of what the broker sent is repeated.
    pub fn failure(&self, error: &(dyn Error + 'static)) -> Failure {
        let broker = self.broker();
        if let Some((_, material)) = &self.tls
            && let Some(error) = find::<rustls::Error>(error)
        {
            return tls::failure(&broker, material, error);
        }
        if find::<Elapsed>(error).is_some() {
            return self.unreachable(NO_ANSWER);
        }
        match find::<io::Error>(error) {
            Some(error) => self.unreachable(&described(error.kind())),
            None => self.unreachable("does not speak MQTT there as this client does"),
        }
    }

    /// The same of an error of the WebSocket, whose own words are a status code or a broken rule.
    pub fn websocket_failure(&self, error: &(dyn Error + 'static)) -> Failure {
        if find::<io::Error>(error).is_some() {
            return self.failure(error);
        }
        self.unreachable(&format!("ended the WebSocket: {error}. Check the path in spec.mqtt.url"))
    }

    /// No connection, or none any more, because the broker did this.
    pub fn unreachable(&self, what: &str) -> Failure {
        Failure::new(BROKER_UNREACHABLE, format!("The MQTT broker {} {what}.", self.broker()))
    }
}

fn described(kind: io::ErrorKind) -> String {
    use io::ErrorKind as Kind;
    match kind {
        Kind::NotFound => "has a host name that DNS does not know: check spec.mqtt.url".to_owned(),
        Kind::InvalidInput => "has a host name that no certificate can name: check spec.mqtt.url".to_owned(),
        Kind::UnexpectedEof | Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => {
            CLOSED_CONNECTION.to_owned()
        }
        kind => format!("cannot be reached: {kind}"),
    }
}

/// An error of this type among the error and its causes. What an [`io::Error`] wraps is not its source.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transport(host: &str, port: u16, path: Option<&str>, is_encrypted: bool) -> Transport {
        let material = TlsMaterial::default();
        let tls = is_encrypted.then(|| (tls::client_config(&material, &[]).unwrap(), material));
        Transport {
            host: host.to_owned(),
            port,
            path: path.map(str::to_owned),
            tls,
            last_words: LastWords::default(),
        }
    }

    #[test]
    fn the_url_of_a_web_socket_leaves_the_usual_port_out() {
        let url = |host, port, path, is_encrypted| transport(host, port, path, is_encrypted).websocket_url();
        assert_eq!(url("broker", 8083, Some("/mqtt"), false).unwrap(), "ws://broker:8083/mqtt");
        assert_eq!(url("broker", 443, Some("/mqtt?x=1"), true).unwrap(), "ws://broker/mqtt?x=1");
        assert_eq!(url("broker", 80, Some(""), false).unwrap(), "ws://broker/");
        assert_eq!(url("::1", 443, Some("/"), false).unwrap(), "ws://[::1]:443/");
        assert_eq!(url("broker", 8883, None, true), None);
    }

    #[test]
    fn a_tls_error_is_found_inside_of_an_io_error() {
        let tls = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
        let error = io::Error::new(io::ErrorKind::InvalidData, tls);
        let failure = transport("broker", 8883, None, true).failure(&error);
        assert!(failure.message.contains("spec.mqtt.tls.clientSecretRef"), "{}", failure.message);
    }

    #[test]
    fn what_a_peer_sent_is_not_repeated() {
        let error = io::Error::other("hunter2");
        let failure = transport("broker", 1883, None, false).failure(&error);
        assert_eq!(failure.reason, BROKER_UNREACHABLE);
        assert!(failure.message.starts_with("The MQTT broker broker:1883 "), "{}", failure.message);
        assert!(!failure.message.contains("hunter2"), "{}", failure.message);
    }
}
