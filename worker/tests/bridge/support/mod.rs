//! What the bridge's tests need: real services, a bridge as a process, publishers and a reader of the topic.

pub mod broker;
pub mod network;
pub mod records;

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use crds::{
    names::{CERTIFICATE_FILE, KEY_FILE, SecretPurpose},
    pipeline::ProtocolVersion,
    worker::{
        BridgeConfig, KafkaConfig, KeyConfig, MqttTransport, PipelineId, RoleConfig, Subscription, TlsConfig,
        WORKER_CONFIG_VERSION, WorkerConfig, WorkerStatus,
    },
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};

/// How many devices send.
pub const DEVICES: usize = 200;

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The partitions of every test's topic.
pub const PARTITIONS: i32 = 3;

/// A variable that `make test` sets.
pub fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: these tests need real services, run `make test`"))
}

/// `host:port` of a real MQTT broker.
pub fn mqtt_address() -> (String, u16) {
    address_of("IOTPIPELINE_TEST_MQTT")
}

/// `host:port` in a variable.
pub fn address_of(name: &str) -> (String, u16) {
    let address = variable(name);
    let (host, port) = address.rsplit_once(':').expect("host:port");
    (host.to_owned(), port.parse().expect("a port"))
}

/// A real Kafka.
pub fn kafka_address() -> String {
    variable("IOTPIPELINE_TEST_KAFKA")
}

/// User name and password, where the broker wants them.
pub fn credentials() -> Option<(String, String)> {
    let username = std::env::var("IOTPIPELINE_TEST_MQTT_USERNAME").ok()?;
    Some((username, variable("IOTPIPELINE_TEST_MQTT_PASSWORD")))
}

/// What is in a Secret that clients may present.
pub fn secret(name: &str, key: &str) -> String {
    fs::read_to_string(Path::new(&variable("IOTPIPELINE_TEST_SECRETS")).join(name).join(key)).unwrap()
}

/// Gives Kafka's superuser commands, which are those of tests/e2e/cluster/kafka-admin.
pub fn administer_kafka(commands: &[String]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/e2e/cluster/kafka-admin");
    let mut child = Command::new(script).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(commands.join("\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "kafka-admin failed");
}

/// Names and files of one test, that no other test and no other run shares.
pub struct Scenario {
    pub name: String,
    pub config: BridgeConfig,
    pub kafka: KafkaConfig,
    directory: PathBuf,
}

impl Scenario {
    /// A bridge from `<name>/#` to the topic `<name>`, which exists.
    pub fn new(title: &str) -> Self {
        Self::with_topic(title, &[])
    }

    /// The same with a topic that somebody else configured.
    pub fn with_topic(title: &str, config: &[(&str, &str)]) -> Self {
        let scenario = Self::without_topic(title);
        scenario.create_topic(config);
        scenario
    }

    /// The same before the topic exists.
    pub fn without_topic(title: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
        let name = format!("test-{title}-{now}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let (host, port) = mqtt_address();
        let config = BridgeConfig {
            host,
            port,
            transport: MqttTransport::Tcp,
            tls: TlsConfig::default(),
            alpn: Vec::new(),
            protocol_version: ProtocolVersion::V5,
            client_id: name.clone(),
            subscriptions: vec![Subscription { filter: format!("{name}/#"), qos: 1 }],
            unsubscribe: Vec::new(),
            retire: false,
            session_expiry_seconds: 600,
            max_packet_size_bytes: 1 << 20,
            max_in_flight: 1000,
            max_in_flight_bytes: 16 << 20,
            has_credentials: credentials().is_some(),
            key: KeyConfig::Topic,
            max_record_bytes: 2 << 20,
            spool: None,
            shared: None,
        };
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir_all(&directory).unwrap();
        let kafka =
            KafkaConfig { bootstrap_servers: kafka_address(), topic: name.clone(), tls: None, sasl: None };
        let scenario = Self { name, config, kafka, directory };
        scenario.mount_credentials();
        scenario
    }

    fn mount_credentials(&self) {
        if let Some((username, password)) = credentials() {
            self.mount(SecretPurpose::Mqtt, "username", &username);
            self.mount(SecretPurpose::Mqtt, "password", &password);
        }
    }

    /// Writes one value of a mounted Secret, at once.
    pub fn mount(&self, purpose: SecretPurpose, key: &str, value: &str) {
        let directory = self.directory.join(purpose.to_string());
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("new"), value).unwrap();
        fs::rename(directory.join("new"), directory.join(key)).unwrap();
    }

    /// Mounts a client certificate that the test services know.
    pub fn mount_certificate(&self, purpose: SecretPurpose, name: &str) {
        self.mount(purpose, CERTIFICATE_FILE, &secret(name, "tls.crt"));
        self.mount(purpose, KEY_FILE, &secret(name, "tls.key"));
    }

    /// Where the bridge has its spool.
    pub fn spool_directory(&self) -> PathBuf {
        self.directory.join("spool")
    }

    pub fn create_topic(&self, config: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", kafka_address()).create().unwrap();
        let topic = (config.iter()).fold(
            NewTopic::new(&self.name, PARTITIONS, TopicReplication::Fixed(1)),
            |topic, (name, value)| topic.set(name, value),
        );
        let created = admin.create_topics([&topic], &AdminOptions::new());
        let results = tokio::runtime::Runtime::new().unwrap().block_on(created).unwrap();
        results.into_iter().for_each(|result| drop(result.unwrap()));
    }

    /// The same with another configuration, and files of its own.
    pub fn with(&self, change: impl FnOnce(&mut BridgeConfig)) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("{}-with-{number}", self.name));
        fs::create_dir_all(&directory).unwrap();
        let (name, kafka) = (self.name.clone(), self.kafka.clone());
        let mut config = self.config.clone();
        change(&mut config);
        let scenario = Self { name, config, kafka, directory };
        scenario.mount_credentials();
        scenario
    }

    /// Starts a bridge; does not wait for it.
    pub fn start(&self) -> Bridge {
        self.start_in("line-bridge")
    }

    /// Starts the bridge with this ordinal; does not wait for it.
    pub fn start_as(&self, ordinal: u32) -> Bridge {
        self.start_in(&format!("line-bridge-{ordinal}"))
    }

    fn start_in(&self, pod: &str) -> Bridge {
        let config = WorkerConfig {
            version: WORKER_CONFIG_VERSION,
            pipeline: PipelineId {
                cluster_name: "test".to_owned(),
                namespace: "test".to_owned(),
                name: self.name.clone(),
            },
            kafka: self.kafka.clone(),
            role: RoleConfig::Bridge(self.config.clone()),
        };
        let path = self.directory.join("worker.json");
        fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
        let http = free_address();
        let child = Command::new(env!("CARGO_BIN_EXE_iotpipeline-worker"))
            .args(["bridge", "--http-address", &http.to_string()])
            .args(["--config".as_ref(), path.as_os_str()])
            .args(["--secrets".as_ref(), self.directory.as_os_str()])
            .args(["--spool".as_ref(), self.spool_directory().as_os_str()])
            .args(["--pod", pod])
            .spawn()
            .unwrap();
        Bridge { child, http }
    }

    /// Starts a bridge and waits until it is ready.
    pub fn start_ready(&self) -> Bridge {
        let bridge = self.start();
        bridge.wait_for("ready", |status| status.ready);
        bridge
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A bridge as a process of its own, killed when dropped.
pub struct Bridge {
    child: Child,
    http: SocketAddr,
}

impl Bridge {
    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; waits for the end.
    pub fn terminate(mut self) -> ExitStatus {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        self.child.wait().unwrap()
    }

    /// The answer's status code and body.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.http).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: bridge\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    pub fn status(&self) -> Option<WorkerStatus> {
        serde_json::from_str(&self.get("/status")?.1).ok()
    }

    /// Waits until the status fits; answers it.
    pub fn wait_for(&self, what: &str, fits: impl Fn(&WorkerStatus) -> bool) -> WorkerStatus {
        let mut last = None;
        wait_until(|| {
            last = self.status();
            last.as_ref().is_some_and(&fits)
        })
        .unwrap_or_else(|()| panic!("the bridge did not become {what}: {last:?}"));
        last.unwrap()
    }

    /// Waits until it works, and still has something to tell.
    pub fn wait_for_remark(&self, reason: &str) -> WorkerStatus {
        self.wait_for(reason, |status| {
            status.ready && status.problem.as_ref().is_some_and(|problem| problem.reason == reason)
        })
    }

    /// The reason why it is not ready.
    pub fn wait_for_problem(&self, reason: &str) -> WorkerStatus {
        let fits =
            |status: &WorkerStatus| status.problem.as_ref().is_some_and(|problem| problem.reason == reason);
        self.wait_for(reason, |status| !status.ready && fits(status))
    }

    /// The value of a metric without labels, or with exactly these.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no metric {name} in {text}")).parse().unwrap()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tries again until it holds, for [`PATIENCE`] at most.
pub fn wait_until(mut holds: impl FnMut() -> bool) -> Result<(), ()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            return Err(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
