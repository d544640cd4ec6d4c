//! What went wrong with the database, in this project's own words. Pure.

use std::io;

use rustls::{AlertDescription, CertificateError};

/// The SQLSTATE of a server's answer. Whatever else stands in its place is a text of the server, and left out.
pub fn sqlstate(error: &sqlx::Error) -> Option<String> {
    let code = error.as_database_error()?.code().unwrap_or_default();
    let is_code =
        code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    Some(if is_code { code.into_owned() } else { "unknown".to_owned() })
}

/// What a SQLSTATE says, for a person.
pub fn of_code(code: &str) -> &'static str {
    match code {
        "28P01" => "the role does not exist or its password is another one; check timescale.secretRef",
        "28000" => {
            "the server does not let the role in; pg_hba.conf may want TLS or a client certificate \
             (timescale.tls), or the role may not log in"
        }
        "3D000" => "the database does not exist",
        "3F000" => "the schema does not exist",
        "42P01" => "the table does not exist",
        "42501" => "the role lacks a right",
        "42703" => "the table lacks a column",
        "42804" => "a column has another type",
        "42P10" => "the table has no unique index on the columns of timescale.uniqueBy",
        "54000" => "a value is too large",
        "53100" => "the server's disk is full",
        "53200" => "the server is out of memory",
        "53300" => "the server has no connection left",
        "57014" | "55P03" => "the server's own limit of time passed",
        "57P01" | "57P02" | "57P03" => "the server is starting or stopping, or ended the session",
        "25006" => "the server is read-only",
        "40001" | "40P01" => "it clashed with another transaction",
        _ if code.starts_with("08") => "the connection broke, or the pooler in between ended it",
        _ if code.starts_with("53") => "the server lacks resources",
        _ => "the server refuses",
    }
}

/// Why the settings of the connection cannot work, where they are to blame.
pub fn of_settings(error: &sqlx::Error) -> Option<&'static str> {
    match error {
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Some("host or port is not usable; check timescale.secretRef")
        }
        sqlx::Error::Io(error) => error.get_ref()?.downcast_ref().map(of_handshake),
        sqlx::Error::Tls(error) => Some(match error.downcast_ref() {
            Some(error) => of_handshake(error),
            None => "the server does not offer TLS; turn it on there, or set timescale.tls.mode to Disable",
        }),
        sqlx::Error::Configuration(_) => {
            Some("the settings are not usable; check timescale.secretRef and timescale.tls")
        }
        _ => None,
    }
}

/// Why a TLS handshake failed.
fn of_handshake(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            "the server's certificate is for other names; connect by one of them, or set \
             timescale.tls.mode to VerifyCa"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => "the server's certificate has expired or is not valid yet; renew it",
        rustls::Error::InvalidCertificate(_) => {
            "the server's certificate is not signed by an authority that is trusted; check \
             timescale.tls.caSecretRef"
        }
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::HandshakeFailure
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied,
        ) => "the server does not accept the client certificate; check timescale.tls.clientSecretRef",
        rustls::Error::InconsistentKeys(_) => {
            "certificate and key do not belong together; check timescale.tls.clientSecretRef"
        }
        _ => "the TLS handshake failed; check timescale.tls",
    }
}

/// Why there is no answer.
pub fn of_connection(error: &sqlx::Error) -> String {
    match error {
        // The words are the operating system's, unless they are about TLS.
        sqlx::Error::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(error) => of_handshake(error).to_owned(),
            None => error.to_string(),
        },
        sqlx::Error::Protocol(_) => "the answer is not that of a PostgreSQL server".to_owned(),
        _ => "the connection broke".to_owned(),
    }
}
