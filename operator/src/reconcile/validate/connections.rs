//! How the pipeline's outside systems are reached: addresses, certificates and passwords, for the operator itself and
//! as what a worker's pods mount. Synchronous, no client.

use access::{
    database::{DatabaseAccess, DatabaseTls},
    kafka::{KafkaAccess, SaslAccess},
    tls::{ClientCertificate, TlsMaterial, holds_certificates, holds_private_key},
};
use crds::{
    names::{self, CA_FILE, CERTIFICATE_FILE, KEY_FILE, PASSWORD_FILE, SecretPurpose},
    pipeline::{CaSecretRef, DatabaseTlsMode, KafkaSpec, MqttSpec, SaslSpec, SecretRef, TimescaleSpec},
    status::Reason,
    worker::{DatabaseTlsConfig, KafkaConfig, PipelineId, SaslConfig, TlsConfig},
};
use k8s_openapi::api::core::v1::Secret;

use super::{Secrets, problems::Problems};
use crate::pipeline::MountedSecret;

/// The keys of a client certificate and its private key: cert-manager's, and Strimzi's.
const CLIENT_KEYS: [(&str, &str); 2] = [("tls.crt", "tls.key"), ("user.crt", "user.key")];

/// What the value of a key should be.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Content {
    Certificates,
    PrivateKey,
    Text,
}

/// One encrypted connection.
#[derive(Default)]
pub(super) struct Tls {
    /// What the worker is told.
    pub config: TlsConfig,
    /// The certificates themselves, for the operator's own connection.
    pub material: TlsMaterial,
    /// What the worker's pods mount.
    pub mounts: Vec<MountedSecret>,
}

/// Kafka.
pub(super) struct Kafka {
    /// What the workers are told.
    pub config: KafkaConfig,
    /// The operator's own way there.
    pub access: KafkaAccess,
    /// What the workers' pods mount.
    pub mounts: Vec<MountedSecret>,
}

/// The database.
pub(super) struct Database {
    /// What the processor is told.
    pub tls: DatabaseTlsConfig,
    /// The operator's own way there.
    pub access: DatabaseAccess,
    /// The role that workers have.
    pub worker_role: String,
    /// What the processor's pods mount.
    pub mounts: Vec<MountedSecret>,
}

/// The Secrets of a spec and where to note what is wrong with them.
pub(super) struct References<'a> {
    pub secrets: &'a Secrets,
    pub id: &'a PipelineId,
    pub problems: &'a mut Problems,
}

/// The certificates of the connection to the MQTT broker.
pub(super) fn mqtt(spec: &MqttSpec, references: &mut References<'_>) -> Option<Tls> {
    let Some(tls) = &spec.tls else { return Some(Tls::default()) };
    let is_encrypted = ["mqtts://", "wss://"].iter().any(|scheme| spec.url.starts_with(scheme));
    references.problems.refuse_if(!is_encrypted, || {
        format!("mqtt.tls needs a URL that begins with mqtts:// or wss://, and mqtt.url is {}", spec.url)
    });
    references.tls(
        ("mqtt.tls", SecretPurpose::MqttCa, SecretPurpose::MqttClient),
        tls.ca_secret_ref.as_ref(),
        tls.client_secret_ref.as_ref(),
    )
}

pub(super) fn kafka(spec: &KafkaSpec, references: &mut References<'_>) -> Option<Kafka> {
    let tls = spec.tls.as_ref().map(|tls| {
        references.tls(
            ("kafka.tls", SecretPurpose::KafkaCa, SecretPurpose::KafkaClient),
            tls.ca_secret_ref.as_ref(),
            tls.client_secret_ref.as_ref(),
        )
    });
    let sasl = spec.sasl.as_ref().map(|sasl| references.sasl(sasl));
    // `None` stands for a problem, `Some(None)` for what the spec does not ask for.
    let tls = tls.map_or(Some(None), |tls| tls.map(Some))?;
    let sasl = sasl.map_or(Some(None), |sasl| sasl.map(Some))?;
    let bootstrap_servers = bootstrap_servers(spec, references.id);
    let mut mounts = Vec::new();
    mounts.extend(tls.iter().flat_map(|tls| tls.mounts.clone()));
    mounts.extend(spec.sasl.iter().map(|sasl| MountedSecret {
        name: sasl.password_secret_ref.name.clone(),
        purpose: SecretPurpose::KafkaPassword,
        files: vec![(sasl.password_secret_ref.key.clone(), PASSWORD_FILE)],
    }));
    Some(Kafka {
        config: KafkaConfig {
            bootstrap_servers: bootstrap_servers.clone(),
            topic: spec.topic.name.clone(),
            tls: tls.as_ref().map(|tls| tls.config),
            sasl: spec
                .sasl
                .as_ref()
                .map(|sasl| SaslConfig { mechanism: sasl.mechanism, username: sasl.username.clone() }),
        },
        access: KafkaAccess { bootstrap_servers, tls: tls.map(|tls| tls.material), sasl },
        mounts,
    })
}

pub(super) fn database(spec: &TimescaleSpec, references: &mut References<'_>) -> Option<Database> {
    let wanted = spec.tls.clone().unwrap_or(crds::pipeline::DatabaseTlsSpec {
        mode: DatabaseTlsMode::Disable,
        ca_secret_ref: None,
        client_secret_ref: None,
    });
    let tls = references.tls(
        ("timescale.tls", SecretPurpose::TimescaleCa, SecretPurpose::TimescaleClient),
        wanted.ca_secret_ref.as_ref(),
        wanted.client_secret_ref.as_ref(),
    )?;
    let access_tls = DatabaseTls { mode: wanted.mode, material: tls.material };
    let worker_access = references.database("timescale.secretRef", &spec.secret_ref, access_tls.clone());
    let admin_access = spec.admin_secret_ref.as_ref().map(|reference| {
        // The certificate is the workers' role's: the operator's role shows its password.
        let material = TlsMaterial { client: None, ..access_tls.material.clone() };
        let tls = DatabaseTls { material, ..access_tls };
        references.database("timescale.adminSecretRef", reference, tls)
    });
    let worker_access = worker_access?;
    let worker_role = worker_access.username.clone();
    let mut mounts = vec![MountedSecret {
        name: spec.secret_ref.name.clone(),
        purpose: SecretPurpose::Timescale,
        files: Vec::new(),
    }];
    mounts.extend(tls.mounts);
    Some(Database {
        tls: DatabaseTlsConfig { mode: wanted.mode, certificates: tls.config },
        access: admin_access.unwrap_or(Some(worker_access))?,
        worker_role,
        mounts,
    })
}

/// Full host names: one without a dot is a Service of the pipeline's namespace.
fn bootstrap_servers(spec: &KafkaSpec, id: &PipelineId) -> String {
    let full = |server: &str| match server.rsplit_once(':') {
        Some((host, port)) => format!("{}:{port}", names::service_host(host, &id.namespace)),
        None => server.to_owned(),
    };
    spec.bootstrap_servers.split(',').map(full).collect::<Vec<_>>().join(",")
}

impl References<'_> {
    /// The certificates of one connection. `field` is where the spec names them.
    fn tls(
        &mut self,
        (field, ca_purpose, client_purpose): (&str, SecretPurpose, SecretPurpose),
        ca: Option<&CaSecretRef>,
        client: Option<&SecretRef>,
    ) -> Option<Tls> {
        let mut tls = Tls::default();
        let (mut is_complete, mut material) = (true, TlsMaterial::default());
        if let Some(CaSecretRef { name, key }) = ca {
            material.ca = self.text(&format!("{field}.caSecretRef"), name, key, Content::Certificates);
            is_complete &= material.ca.is_some();
            tls.config.has_ca = true;
            tls.mounts.push(MountedSecret {
                name: name.clone(),
                purpose: ca_purpose,
                files: vec![(key.clone(), CA_FILE)],
            });
        }
        if let Some(SecretRef { name }) = client {
            let found = self.client_certificate(&format!("{field}.clientSecretRef"), name);
            is_complete &= found.is_some();
            let (keys, certificate) = found.unzip();
            material.client = certificate;
            tls.config.has_client_certificate = true;
            tls.mounts.extend(keys.map(|(certificate, key)| MountedSecret {
                name: name.clone(),
                purpose: client_purpose,
                files: vec![(certificate.to_owned(), CERTIFICATE_FILE), (key.to_owned(), KEY_FILE)],
            }));
        }
        is_complete.then_some(Tls { material, ..tls })
    }

    fn client_certificate(
        &mut self,
        field: &str,
        name: &str,
    ) -> Option<((&'static str, &'static str), ClientCertificate)> {
        let secret = self.problems.secret(field, name, self.secrets, self.id)?;
        let has = |(certificate, key): &(&str, &str)| {
            text_of(secret, certificate).is_some() && text_of(secret, key).is_some()
        };
        let Some(keys) = CLIENT_KEYS.into_iter().find(has) else {
            let namespace = &self.id.namespace;
            self.problems.note(
                Reason::SecretInvalid,
                format!(
                    "{field}: Secret {namespace}/{name} has neither the keys tls.crt and tls.key nor user.crt and user.key"
                ),
            );
            return None;
        };
        let certificate = self.text(field, name, keys.0, Content::Certificates)?;
        let key = self.text(field, name, keys.1, Content::PrivateKey)?;
        Some((keys, ClientCertificate { certificate, key }))
    }

    fn sasl(&mut self, spec: &SaslSpec) -> Option<SaslAccess> {
        let reference = &spec.password_secret_ref;
        let password =
            self.text("kafka.sasl.passwordSecretRef", &reference.name, &reference.key, Content::Text)?;
        Some(SaslAccess { mechanism: spec.mechanism, username: spec.username.clone(), password })
    }

    fn database(&mut self, field: &str, reference: &SecretRef, tls: DatabaseTls) -> Option<DatabaseAccess> {
        let secret = self.problems.secret(field, &reference.name, self.secrets, self.id)?;
        match DatabaseAccess::from_secret(|key| text_of(secret, key), &self.id.namespace, tls) {
            Ok(access) => Some(access),
            Err(error) => {
                self.problems.note(
                    Reason::SecretInvalid,
                    format!("{field}: Secret {}/{} {error}", self.id.namespace, reference.name),
                );
                None
            }
        }
    }

    /// The value of a key, if it is there and of use.
    pub(super) fn text(&mut self, field: &str, name: &str, key: &str, content: Content) -> Option<String> {
        let secret = self.problems.secret(field, name, self.secrets, self.id)?;
        let namespace = &self.id.namespace;
        let value = text_of(secret, key);
        self.problems.refuse_secret_if(value.is_none(), || {
            format!("{field}: Secret {namespace}/{name} has no key {key}")
        });
        let value = value?;
        let fits = content.fits(&value);
        self.problems.refuse_secret_if(!fits, || {
            format!("{field}: key {key} of Secret {namespace}/{name} does not hold {}", content.description())
        });
        fits.then_some(value)
    }
}

impl Content {
    fn fits(self, value: &str) -> bool {
        match self {
            Self::Certificates => holds_certificates(value),
            Self::PrivateKey => holds_private_key(value),
            Self::Text => !value.is_empty(),
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Certificates => "certificates as PEM",
            Self::PrivateKey => "a private key as PEM without a passphrase",
            Self::Text => "any text",
        }
    }
}

fn text_of(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    // The line end that editors and `echo` leave is no part of a password; workers read it so too.
    let text = String::from_utf8(bytes.0.clone()).ok()?;
    let without_newline = text.strip_suffix('\n').unwrap_or(&text);
    Some(without_newline.strip_suffix('\r').unwrap_or(without_newline).to_owned())
}
