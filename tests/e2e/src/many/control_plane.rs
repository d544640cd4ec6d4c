//! A control plane of its own: etcd, the API server, the controllers, the scheduler, and kwok in the place of kubelets.
//! Everybody is an administrator and has a token.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crds::IoTPipeline;
use k8s_openapi::{
    api::core::v1::{Namespace, Node},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, CustomResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use snafu::{ResultExt, whatever};

use super::{Settings, audit::AuditLog, process::Process, workers::NETWORK};
use crate::{Result, bench::process::free_address, wait::eventually};

/// Whose calls are counted.
pub const OPERATOR: &str = "operator";

const USERS: [&str; 5] = ["admin", OPERATOR, "controller-manager", "scheduler", "kwok"];

/// How fast controllers and scheduler may be, calls a second: the defaults (20 and 50) are for larger clusters than
/// fit onto one machine, and would be all that is measured.
const RATE: [&str; 2] = ["--kube-api-qps=2000", "--kube-api-burst=4000"];

const STAGES: &str = include_str!("stages.yaml");

/// What of the operator's calls is written down: one line each, when it is answered.
const AUDIT_POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - {level: Metadata, users: [operator]}
  - {level: None}
"#;

/// A running control plane; ended when dropped.
pub struct ControlPlane {
    /// An administrator.
    pub client: Client,
    directory: PathBuf,
    // Dropped in this order.
    processes: Vec<Process>,
}

impl ControlPlane {
    /// Starts it, with one node and the definition of IoTPipelines.
    ///
    /// # Errors
    /// Fails where one of its programs does not start.
    pub async fn start(settings: &Settings) -> Result<Self> {
        let directory = settings.directory.clone();
        let etcd = free()?;
        let api = free()?;
        let mut processes = vec![start_etcd(settings, etcd)?];
        processes.insert(0, start_api_server(settings, api, etcd)?);
        let certificate = directory.join("certificates/apiserver.crt");
        eventually(Duration::from_secs(60), "the API server has a certificate", async || {
            Ok(certificate.exists().then_some(()).ok_or_else(|| "it has none".to_owned()))
        })
        .await?;
        for user in USERS {
            write_kubeconfig(&directory, user, api)?;
        }
        let client = connect(&kubeconfig(&directory, "admin")).await?;
        eventually(Duration::from_secs(120), "the API server is ready", async || {
            let namespaces: Api<Namespace> = Api::all(client.clone());
            Ok(namespaces.get("kube-system").await.map(|_| ()).map_err(|error| error.to_string()))
        })
        .await?;
        processes.insert(0, start_controllers(settings)?);
        processes.insert(0, start_scheduler(settings)?);
        processes.insert(0, start_kwok(settings)?);
        let mut plane = Self { client, directory, processes };
        plane.furnish().await?;
        plane.processes.iter_mut().try_for_each(Process::check)?;
        Ok(plane)
    }

    /// The kubeconfig of the user whose calls are counted.
    pub fn operator_kubeconfig(&self) -> PathBuf {
        kubeconfig(&self.directory, OPERATOR)
    }

    /// What each of its programs has used of the processors so far, seconds.
    ///
    /// # Errors
    /// Fails where one of them has ended.
    pub fn cpu_seconds(&self) -> Result<Vec<(&str, f64)>> {
        self.processes.iter().map(Process::cpu_seconds).collect()
    }

    /// What the operator has asked for.
    pub fn audit_log(&self) -> AuditLog {
        AuditLog(self.directory.join("audit.log"))
    }

    async fn furnish(&self) -> Result<()> {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        definitions
            .patch(
                &IoTPipeline::crd().metadata.name.unwrap_or_default(),
                &PatchParams::apply("many"),
                &Patch::Apply(IoTPipeline::crd()),
            )
            .await
            .whatever_context("failed to write the definition of IoTPipelines")?;
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = serde_json::from_value(json!({
            "metadata": {"name": "kwok", "labels": {"kubernetes.io/hostname": "kwok", "kubernetes.io/os": "linux"}},
        }))
        .whatever_context("failed to write a Node")?;
        nodes.create(&PostParams::default(), &node).await.whatever_context("failed to make a node")?;
        let pipelines: Api<IoTPipeline> = Api::all(self.client.clone());
        eventually(Duration::from_secs(60), "IoTPipelines are known", async || {
            let known = pipelines.list(&ListParams::default()).await;
            Ok(known.map(|_| ()).map_err(|error| error.to_string()))
        })
        .await
    }
}

async fn connect(kubeconfig: &Path) -> Result<Client> {
    let parsed = Kubeconfig::read_from(kubeconfig)
        .with_whatever_context(|_| format!("failed to read {}", kubeconfig.display()))?;
    let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
        .await
        .with_whatever_context(|_| format!("failed to use {}", kubeconfig.display()))?;
    Client::try_from(config).whatever_context("failed to make a client")
}

fn start_etcd(settings: &Settings, address: SocketAddr) -> Result<Process> {
    let directory = &settings.directory;
    let (client, peers) = (format!("http://{address}"), format!("http://{}", free()?));
    let data = directory.join("etcd");
    // Its disk is not what is measured.
    let mut command = Command::new(settings.etcd.join("etcd"));
    command
        .args(["--unsafe-no-fsync", "--quota-backend-bytes=4294967296", "--log-outputs=stderr", "--data-dir"])
        .arg(data)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peers]);
    Process::start("etcd", directory, &mut command)
}

fn start_api_server(settings: &Settings, api: SocketAddr, etcd: SocketAddr) -> Result<Process> {
    let directory = &settings.directory;
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).with_whatever_context(|_| format!("failed to write {}", path.display()))
    };
    write("audit-policy.yaml", AUDIT_POLICY)?;
    let tokens = USERS.map(|user| format!("{},{user},{user},\"system:masters\"\n", token_of(user)));
    write("tokens.csv", &tokens.concat())?;
    let key = "service-accounts.key";
    openssl(directory, &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key])?;
    openssl(directory, &["pkey", "-in", key, "-pubout", "-out", "service-accounts.pub"])?;
    let option = |name: &str, path: &str| format!("--{name}={}", directory.join(path).display());
    let mut command = Command::new(settings.kubernetes.join("kube-apiserver"));
    command
        .args([
            "--bind-address=127.0.0.1",
            // Nobody comes by it, but it has to be said where there is no default route, as in the local cluster's network.
            "--advertise-address=192.0.2.1",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
        ])
        .arg("--profiling=false")
        .args(["--service-account-issuer=https://kubernetes.default.svc"])
        // Nobody but this machine's programs asks, and none of them shall wait for another.
        .args([
            "--enable-priority-and-fairness=false",
            "--max-requests-inflight=0",
            "--max-mutating-requests-inflight=0",
        ])
        .arg(format!("--secure-port={}", api.port()))
        .arg(format!("--etcd-servers=http://{etcd}"))
        .arg(option("cert-dir", "certificates"))
        .arg(option("token-auth-file", "tokens.csv"))
        .arg(option("service-account-key-file", "service-accounts.pub"))
        .arg(option("service-account-signing-key-file", "service-accounts.key"))
        .arg(option("audit-policy-file", "audit-policy.yaml"))
        .arg(option("audit-log-path", "audit.log"));
    Process::start("kube-apiserver", directory, &mut command)
}

fn openssl(directory: &Path, arguments: &[&str]) -> Result<()> {
    let made = Command::new("openssl").current_dir(directory).args(arguments).output();
    let made = made.whatever_context("failed to run openssl")?;
    if !made.status.success() {
        whatever!("openssl failed: {}", String::from_utf8_lossy(&made.stderr));
    }
    Ok(())
}

fn start_controllers(settings: &Settings) -> Result<Process> {
    let Settings { directory, kubernetes, .. } = settings;
    let mut command = Command::new(kubernetes.join("kube-controller-manager"));
    command
        .args(["--leader-elect=false", "--secure-port=0", "--profiling=false"])
        .args(
            ["deployment", "statefulset", "replicaset", "service-endpoint"]
                .map(|kind| format!("--concurrent-{kind}-syncs=20")),
        )
        .args(RATE)
        .arg(format!("--kubeconfig={}", kubeconfig(directory, "controller-manager").display()))
        .arg(format!(
            "--service-account-private-key-file={}",
            directory.join("service-accounts.key").display()
        ));
    Process::start("kube-controller-manager", directory, &mut command)
}

fn start_scheduler(settings: &Settings) -> Result<Process> {
    let Settings { directory, kubernetes, .. } = settings;
    let mut command = Command::new(kubernetes.join("kube-scheduler"));
    command
        .args(["--leader-elect=false", "--secure-port=0", "--profiling=false"])
        .args(RATE)
        .arg(format!("--kubeconfig={}", kubeconfig(directory, "scheduler").display()));
    Process::start("kube-scheduler", directory, &mut command)
}

fn start_kwok(settings: &Settings) -> Result<Process> {
    let Settings { directory, kwok, .. } = settings;
    let stages = directory.join("stages.yaml");
    fs::write(&stages, STAGES).with_whatever_context(|_| format!("failed to write {}", stages.display()))?;
    let mut command = Command::new(kwok.join("kwok"));
    command
        .args([
            "--manage-all-nodes=true",
            "--node-lease-duration-seconds=40",
            "--server-address=",
            "--node-ip=10.201.255.254",
        ])
        .arg(format!("--cidr={NETWORK}"))
        .arg(format!("--config={}", stages.display()))
        .arg(format!("--kubeconfig={}", kubeconfig(directory, "kwok").display()));
    Process::start("kwok", directory, &mut command)
}

fn kubeconfig(directory: &Path, user: &str) -> PathBuf {
    directory.join(format!("{user}.kubeconfig"))
}

fn write_kubeconfig(directory: &Path, user: &str, api: SocketAddr) -> Result<()> {
    let certificate = directory.join("certificates/apiserver.crt");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "many", "cluster": {
            "server": format!("https://{api}"), "certificate-authority": certificate,
        }}],
        "users": [{"name": user, "user": {"token": token_of(user)}}],
        "contexts": [{"name": "many", "context": {"cluster": "many", "user": user}}],
        "current-context": "many",
    });
    let path = kubeconfig(directory, user);
    fs::write(&path, config.to_string())
        .with_whatever_context(|_| format!("failed to write {}", path.display()))
}

/// Not secret: the API server listens for this machine alone and for as long as the measurement takes.
fn token_of(user: &str) -> String {
    format!("many-{user}")
}

fn free() -> Result<SocketAddr> {
    let address = free_address().whatever_context("failed to find a free port")?;
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())))
}
