//! The Secrets that the operator mounted, as they are now: read again at every connect, so that a rotation restarts
//! nothing. I/O.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use access::{
    kafka::{KafkaAccess, SaslAccess},
    tls::{self, ClientCertificate, TlsMaterial},
};
use crds::{
    names::{CA_FILE, CERTIFICATE_FILE, KEY_FILE, PASSWORD_FILE, SecretPurpose},
    worker::{KafkaConfig, TlsConfig},
};
use snafu::{ResultExt, Snafu, ensure};

/// Why a mounted Secret cannot be used. Quotes keys and never values.
#[derive(Debug, Snafu)]
pub enum Error {
    /// It lacks a key.
    #[snafu(display("the Secret mounted at {} has no key {key}", directory.display()))]
    Missing {
        /// The directory into which the Secret is mounted.
        directory: PathBuf,
        /// The key that is not there.
        key: String,
        /// Why the file could not be read.
        source: io::Error,
    },
    /// The value of a key is not what it should be.
    #[snafu(display("the Secret mounted at {} has a key {key} that holds {what}", directory.display()))]
    Unusable {
        /// The directory into which the Secret is mounted.
        directory: PathBuf,
        /// The key.
        key: &'static str,
        /// What it holds instead.
        what: &'static str,
    },
}

/// The directory with a directory for each mounted Secret.
#[derive(Clone, Debug)]
pub struct Secrets {
    root: PathBuf,
}

impl Secrets {
    /// The Secrets below a directory.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The directory of one of them.
    pub fn directory(&self, purpose: SecretPurpose) -> PathBuf {
        self.root.join(purpose.to_string())
    }

    /// One value, without the line end that editors and `echo` leave.
    ///
    /// # Errors
    /// Names the key that is not there.
    pub fn read(&self, purpose: SecretPurpose, key: &str) -> Result<String, Error> {
        read(&self.directory(purpose), key)
    }

    /// The certificates of a connection; `ca` and `client` say where they are mounted.
    ///
    /// # Errors
    /// Names the key that is not there or not usable.
    pub fn tls(
        &self,
        config: TlsConfig,
        ca: SecretPurpose,
        client: SecretPurpose,
    ) -> Result<TlsMaterial, Error> {
        let TlsConfig { has_ca, has_client_certificate } = config;
        let certificates = |purpose, key| {
            let what = "no certificates in PEM form";
            self.read_if(purpose, key, tls::holds_certificates, what)
        };
        let ca = has_ca.then(|| certificates(ca, CA_FILE)).transpose()?;
        let client = has_client_certificate
            .then(|| {
                let certificate = certificates(client, CERTIFICATE_FILE)?;
                let what = "no private key in PEM form without a passphrase";
                let key = self.read_if(client, KEY_FILE, tls::holds_private_key, what)?;
                Ok(ClientCertificate { certificate, key })
            })
            .transpose()?;
        Ok(TlsMaterial { ca, client })
    }

    fn read_if(
        &self,
        purpose: SecretPurpose,
        key: &'static str,
        is_usable: impl Fn(&str) -> bool,
        what: &'static str,
    ) -> Result<String, Error> {
        let text = self.read(purpose, key)?;
        ensure!(is_usable(&text), UnusableSnafu { directory: self.directory(purpose), key, what });
        Ok(text)
    }

    /// How to reach Kafka now.
    ///
    /// # Errors
    /// Names the key that is not there or not usable.
    pub fn kafka(&self, config: &KafkaConfig) -> Result<KafkaAccess, Error> {
        let tls = config
            .tls
            .map(|tls| self.tls(tls, SecretPurpose::KafkaCa, SecretPurpose::KafkaClient))
            .transpose()?;
        let sasl = config
            .sasl
            .as_ref()
            .map(|sasl| {
                let password = self.read(SecretPurpose::KafkaPassword, PASSWORD_FILE)?;
                Ok(SaslAccess { mechanism: sasl.mechanism, username: sasl.username.clone(), password })
            })
            .transpose()?;
        Ok(KafkaAccess { bootstrap_servers: config.bootstrap_servers.clone(), tls, sasl })
    }
}

fn read(directory: &Path, key: &str) -> Result<String, Error> {
    let text = fs::read_to_string(directory.join(key)).context(MissingSnafu { directory, key })?;
    let without_newline = text.strip_suffix('\n').unwrap_or(&text);
    Ok(without_newline.strip_suffix('\r').unwrap_or(without_newline).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_loses_one_line_end_and_a_missing_key_is_named() {
        let root = std::env::temp_dir().join(format!("iotpipeline-secret-{}", std::process::id()));
        let secrets = Secrets::new(root.clone());
        fs::create_dir_all(secrets.directory(SecretPurpose::Mqtt)).unwrap();
        fs::write(root.join("mqtt/password"), "pass word \n").unwrap();
        assert_eq!(secrets.read(SecretPurpose::Mqtt, "password").unwrap(), "pass word ");
        let error = secrets.read(SecretPurpose::Mqtt, "username").unwrap_err().to_string();
        assert!(error.ends_with("mqtt has no key username"), "{error}");
        fs::remove_dir_all(&root).unwrap();
    }
}
