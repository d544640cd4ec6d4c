//! TLS with the MQTT broker: what a handshake needs, and what a failed one means for a person. No I/O but for the
//! authorities that the system trusts.

use std::sync::Arc;

use access::tls::{ClientCertificate, TlsMaterial};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::{BROKER_TLS_FAILED, Failure, SECRET_INVALID};

/// What a handshake needs. Names the field of the spec where a Secret holds something else.
pub fn client_config(material: &TlsMaterial, alpn: &[String]) -> Result<Arc<ClientConfig>, Failure> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|_| unusable("The worker's TLS library is not usable"))?
        .with_root_certificates(roots(material.ca.as_deref())?);
    let mut config = match &material.client {
        None => builder.with_no_client_auth(),
        Some(ClientCertificate { certificate, key }) => {
            let invalid = "spec.mqtt.tls.clientSecretRef holds no certificate with its private key";
            let chain = certificates(certificate).ok_or_else(|| unusable(invalid))?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| unusable(invalid))?;
            builder.with_client_auth_cert(chain, key).map_err(|_| unusable(invalid))?
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

fn roots(ca: Option<&str>) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    let Some(ca) = ca else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(unusable(
                "The worker's image has no certificate authorities, so spec.mqtt.tls.caSecretRef is needed",
            ));
        }
        return Ok(roots);
    };
    let invalid =
        || unusable("spec.mqtt.tls.caSecretRef holds something that is no certificate of an authority");
    for certificate in certificates(ca).ok_or_else(invalid)? {
        roots.add(certificate).map_err(|_| invalid())?;
    }
    Ok(roots)
}

fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().ok()?;
    (!certificates.is_empty()).then_some(certificates)
}

fn unusable(what: &str) -> Failure {
    Failure::new(SECRET_INVALID, format!("{what}."))
}

/// What a failed handshake, or a connection that broke with a TLS error, means. Nothing of what the broker sent
/// is repeated.
pub fn failure(broker: &str, material: &TlsMaterial, error: &Error) -> Failure {
    let what = match error {
        Error::InvalidCertificate(error) => untrusted(material, error),
        Error::AlertReceived(alert) => refused(material, *alert),
        Error::InvalidMessage(_) => {
            "does not speak TLS there. Check scheme and port of spec.mqtt.url: mqtts:// and wss:// need a port with TLS"
                .to_owned()
        }
        Error::PeerIncompatible(_) => "shares no TLS version or cipher with this client, which speaks TLS 1.2 and 1.3"
            .to_owned(),
        Error::NoApplicationProtocol => "chose a protocol that spec.mqtt.tls.alpn does not offer".to_owned(),
        _ => "broke the TLS protocol".to_owned(),
    };
    Failure::new(BROKER_TLS_FAILED, format!("The MQTT broker {broker} {what}."))
}

fn untrusted(material: &TlsMaterial, error: &CertificateError) -> String {
    use CertificateError as Because;
    match error {
        Because::UnknownIssuer if material.ca.is_some() => {
            "shows a certificate that no authority in spec.mqtt.tls.caSecretRef signed. Put the authority of the \
             broker's certificate there"
        }
        Because::UnknownIssuer => {
            "shows a certificate that no authority of the system signed. Name the Secret with the authority in \
             spec.mqtt.tls.caSecretRef"
        }
        Because::NotValidForName | Because::NotValidForNameContext { .. } => {
            "shows a certificate that does not name this host. Use one of its names in spec.mqtt.url, or give the \
             broker a certificate with this name"
        }
        Because::Expired | Because::ExpiredContext { .. } => {
            "shows a certificate that has expired. Renew it at the broker"
        }
        Because::NotValidYet | Because::NotValidYetContext { .. } => {
            "shows a certificate that is not valid yet. Check the clocks of broker and node"
        }
        Because::Revoked => "shows a certificate that was revoked. Renew it at the broker",
        _ => "shows a certificate that is not usable for a server. Renew it at the broker",
    }
    .to_owned()
}

fn refused(material: &TlsMaterial, alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    match alert {
        // TLS 1.2 has no word of its own for a certificate that is missing.
        Alert::CertificateRequired
        | Alert::HandshakeFailure
        | Alert::BadCertificate
        | Alert::AccessDenied
            if material.client.is_none() =>
        {
            format!(
                "breaks the TLS handshake off ({alert:?}): it wants a client certificate, or shares no cipher. Name \
                 the Secret with the certificate in spec.mqtt.tls.clientSecretRef"
            )
        }
        Alert::CertificateRequired
        | Alert::HandshakeFailure
        | Alert::BadCertificate
        | Alert::AccessDenied
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::DecryptError
        | Alert::UnknownCA => format!(
            "does not accept the client certificate of spec.mqtt.tls.clientSecretRef ({alert:?}). Check that it has \
             not expired and that the broker trusts who signed it"
        ),
        Alert::NoApplicationProtocol => {
            "knows none of the protocols of spec.mqtt.tls.alpn (NoApplicationProtocol)".to_owned()
        }
        Alert::UnrecognisedName => {
            "does not know the host name of spec.mqtt.url (UnrecognisedName)".to_owned()
        }
        alert => format!("breaks the TLS connection off ({alert:?})"),
    }
}

#[cfg(test)]
mod tests {
    use rustls::InvalidMessage;

    use super::*;

    fn material(has_ca: bool, has_client: bool) -> TlsMaterial {
        let client = ClientCertificate { certificate: "hunter2".to_owned(), key: "hunter2".to_owned() };
        TlsMaterial { ca: has_ca.then(|| "hunter2".to_owned()), client: has_client.then_some(client) }
    }

    #[test]
    fn a_failure_names_the_field_to_look_at() {
        use CertificateError as Because;
        let cases = [
            (
                material(true, false),
                Error::InvalidCertificate(Because::UnknownIssuer),
                "signed. Put the authority",
            ),
            (
                material(false, false),
                Error::InvalidCertificate(Because::UnknownIssuer),
                "in spec.mqtt.tls.caSecretRef",
            ),
            (material(true, false), Error::InvalidCertificate(Because::NotValidForName), "spec.mqtt.url"),
            (material(true, false), Error::InvalidCertificate(Because::Expired), "has expired"),
            (
                material(true, false),
                Error::AlertReceived(AlertDescription::CertificateRequired),
                "Name the Secret with the certificate in spec.mqtt.tls.clientSecretRef",
            ),
            (
                material(true, true),
                Error::AlertReceived(AlertDescription::UnknownCA),
                "does not accept the client certificate of spec.mqtt.tls.clientSecretRef (UnknownCA)",
            ),
            (
                material(true, true),
                Error::AlertReceived(AlertDescription::NoApplicationProtocol),
                "spec.mqtt.tls.alpn",
            ),
            (
                material(true, true),
                Error::InvalidMessage(InvalidMessage::InvalidContentType),
                "does not speak TLS",
            ),
        ];
        for (material, error, says) in cases {
            let Failure { reason, message } = failure("mqtt.test:8883", &material, &error);
            assert_eq!(reason, BROKER_TLS_FAILED);
            assert!(message.contains(says), "{message}");
            assert!(message.contains("mqtt.test:8883") && !message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn names_in_the_brokers_certificate_are_not_repeated() {
        let error = CertificateError::NotValidForNameContext {
            expected: rustls::pki_types::ServerName::try_from("mqtt.test").unwrap(),
            presented: vec!["hunter2".to_owned()],
        };
        let failure = failure("mqtt.test:8883", &material(true, false), &Error::InvalidCertificate(error));
        assert!(!failure.message.contains("hunter2"), "{}", failure.message);
    }

    #[test]
    fn a_secret_with_something_else_is_named() {
        let says = |material| client_config(&material, &[]).unwrap_err();
        let ca = says(material(true, false));
        assert_eq!(ca.reason, SECRET_INVALID);
        assert!(ca.message.contains("spec.mqtt.tls.caSecretRef"), "{}", ca.message);
        let client = says(TlsMaterial { ca: None, ..material(false, true) });
        assert!(client.message.contains("spec.mqtt.tls.clientSecretRef"), "{}", client.message);
    }

    #[test]
    fn the_authorities_of_the_system_serve_where_none_is_given() {
        let config = client_config(&TlsMaterial::default(), &["mqtt".to_owned()]).unwrap();
        assert_eq!(config.alpn_protocols, [b"mqtt"]);
    }
}
