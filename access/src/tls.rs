//! The certificates of a TLS connection, as PEM text.

use std::fmt;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// What one side needs to trust the other and to be trusted. Holds a private key, so its `Debug` hides it.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct TlsMaterial {
    /// Whom to trust, one certificate or more; without it the certificate authorities of the system.
    pub ca: Option<String>,
    /// Who this is, where the server wants to know.
    pub client: Option<ClientCertificate>,
}

/// A client's certificate, with whatever leads from it to a certificate authority, and its private key.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct ClientCertificate {
    /// The client's own certificate first.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// Whether a text holds at least one certificate, and nothing that looks like one and is none.
pub fn holds_certificates(pem: &str) -> bool {
    let mut certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).peekable();
    certificates.peek().is_some() && certificates.all(|certificate| certificate.is_ok())
}

/// Whether a text holds a private key without a passphrase.
pub fn holds_private_key(pem: &str) -> bool {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).is_ok()
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // No real certificate and key: what counts here is the envelope.
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";

    #[test]
    fn certificates_and_keys_are_told_from_other_text() {
        assert!(holds_certificates(&CERTIFICATE.repeat(2)));
        assert!(!holds_certificates("") && !holds_certificates(KEY) && !holds_certificates("hunter2"));
        assert!(!holds_certificates("-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n"));
        assert!(holds_private_key(KEY));
        assert!(!holds_private_key(CERTIFICATE) && !holds_private_key(""));
    }

    #[test]
    fn debug_hides_the_key() {
        let client = ClientCertificate { certificate: CERTIFICATE.to_owned(), key: KEY.to_owned() };
        let material = TlsMaterial { ca: None, client: Some(client) };
        assert!(!format!("{material:?}").contains("MAA="));
    }
}
