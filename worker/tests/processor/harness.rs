//! What the processor's tests need: real services, processors as processes, a producer, and SQL.

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
    names::{CA_FILE, CERTIFICATE_FILE, KEY_FILE, POSITION_TABLE, SecretPurpose, dead_letter_table},
    pipeline::{CodecType, ColumnType, OnOffsetLost},
    worker::{
        AcceptTimeConfig, ColumnConfig, DatabaseTlsConfig, KafkaConfig, PipelineId, ProcessorConfig,
        RoleConfig, StartFrom, TableConfig, WORKER_CONFIG_VERSION, WorkerConfig, WorkerStatus,
    },
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
    topic_partition_list::TopicPartitionListElem,
};
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, Row,
    postgres::{PgConnectOptions, PgRow, PgSslMode},
};
use url::Url;

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The target table of every test, in a schema of its own.
pub const TABLE: &str = "telemetry";

/// A variable that `make test` sets.
pub fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: these tests need real services, run `make test`"))
}

fn kafka_address() -> String {
    variable("IOTPIPELINE_TEST_KAFKA")
}

/// Topic, schema and files of one test, that no other test and no other run shares.
pub struct Scenario {
    pub name: String,
    pub config: ProcessorConfig,
    pub kafka: KafkaConfig,
    pub topic_config: Vec<(&'static str, &'static str)>,
    /// How tests reach the database.
    database: String,
    directory: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Scenario {
    /// A topic with so many partitions, and an empty table.
    pub fn new(title: &str, partitions: i32) -> Self {
        let scenario = Self::without_topic(title);
        scenario.create_topic(partitions);
        scenario
    }

    /// The same before the topic exists.
    pub fn without_topic(title: &str) -> Self {
        Self::in_database(title, "IOTPIPELINE_TEST_TIMESCALE")
    }

    /// The same in the database that a variable names.
    pub fn in_database(title: &str, database: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
        let name = format!("test_{title}_{now}_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir_all(&directory).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = config(&name);
        let kafka =
            KafkaConfig { bootstrap_servers: kafka_address(), topic: name.clone(), tls: None, sasl: None };
        let database = variable(database);
        let scenario = Self { name, config, kafka, topic_config: Vec::new(), database, directory, runtime };
        scenario.mount(SecretPurpose::Timescale, "uri", &scenario.database);
        // A server that is new each time has none yet.
        scenario.execute("CREATE EXTENSION IF NOT EXISTS timescaledb SCHEMA public");
        scenario.create_tables();
        scenario
    }

    pub fn create_topic(&self, partitions: i32) {
        let topic = NewTopic::new(&self.name, partitions, TopicReplication::Fixed(1));
        let topic = self.topic_config.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
        let created =
            self.runtime.block_on(self.admin().create_topics([&topic], &AdminOptions::new())).unwrap();
        created.into_iter().for_each(|result| drop(result.unwrap()));
    }

    pub fn grow_topic(&self, partitions: usize) {
        let grown = NewPartitions::new(&self.name, partitions);
        let results =
            self.runtime.block_on(self.admin().create_partitions([&grown], &AdminOptions::new())).unwrap();
        results.into_iter().for_each(|result| drop(result.unwrap()));
    }

    /// Deletes the records of partition 0 before an offset, as retention would.
    pub fn delete_records(&self, before: i64) {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(&self.name, 0, Offset::Offset(before)).unwrap();
        self.runtime.block_on(self.admin().delete_records(&offsets, &AdminOptions::new())).unwrap();
    }

    /// What lag tools see of the consumer group: the offset of each partition, where there is one.
    pub fn group_offsets(&self, partitions: i32) -> Vec<Option<i64>> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", kafka_address())
            .set("group.id", &self.config.consumer_group)
            .create()
            .unwrap();
        let mut topic = TopicPartitionList::new();
        topic.add_partition_range(&self.name, 0, partitions - 1);
        let committed = consumer.committed_offsets(topic, PATIENCE).unwrap();
        let offset = |partition: &TopicPartitionListElem<'_>| match partition.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        committed.elements().iter().map(offset).collect()
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", kafka_address()).create().unwrap()
    }

    /// The operator's work, from the column lists in `crds::names`.
    fn create_tables(&self) {
        let Self { name, .. } = self;
        let dead_letters = dead_letter_table(TABLE);
        self.execute(&format!(
            "CREATE SCHEMA {name};
             CREATE TABLE {name}.{TABLE} (time timestamptz NOT NULL, device text NOT NULL, n bigint, \
               value double precision, extra jsonb);
             SELECT create_hypertable('{name}.{TABLE}', by_range('time', INTERVAL '1 day'));
             CREATE TABLE {name}.{dead_letters} (time timestamptz NOT NULL DEFAULT now(), \
               reason text NOT NULL, stage text NOT NULL, error text NOT NULL, topic text NOT NULL, \
               partition int NOT NULL, \"offset\" bigint NOT NULL, key bytea, headers jsonb, payload bytea, \
               payload_bytes bigint NOT NULL, payload_sha256 bytea NOT NULL);
             SELECT create_hypertable('{name}.{dead_letters}', by_range('time'));
             CREATE TABLE {name}.{POSITION_TABLE} (table_name text NOT NULL, kafka_cluster_id text NOT NULL, \
               topic text NOT NULL, partition int NOT NULL, next_offset bigint NOT NULL, last_offset bigint, \
               last_timestamp timestamptz, last_hash bytea, updated_at timestamptz NOT NULL DEFAULT now(), \
               PRIMARY KEY (table_name, kafka_cluster_id, topic, partition));"
        ));
    }

    async fn connect(&self) -> PgConnection {
        let options: PgConnectOptions = self.database.parse().unwrap();
        PgConnection::connect_with(&options.ssl_mode(PgSslMode::Disable)).await.unwrap()
    }

    /// Runs statements; `{schema}` stands for the test's schema.
    pub fn execute(&self, sql: &str) {
        let sql = sql.replace("{schema}", &self.name);
        self.runtime.block_on(async {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connect().await).await.unwrap();
        });
    }

    /// The rows of a query as text, columns separated by `|`; `{schema}` stands for the test's schema.
    pub fn query(&self, sql: &str) -> Vec<String> {
        let sql = sql.replace("{schema}", &self.name);
        // The simple protocol answers text, whatever the types.
        let rows = self.runtime.block_on(async {
            sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut self.connect().await).await.unwrap()
        });
        let text = |row: &PgRow| {
            let columns = (0..row.len()).map(|index| row.try_get_raw(index).unwrap());
            columns.map(|value| value.as_str().unwrap_or("null").to_owned()).collect::<Vec<_>>().join("|")
        };
        rows.iter().map(text).collect()
    }

    /// The only number that a query answers.
    pub fn number(&self, sql: &str) -> i64 {
        self.query(sql)[0].parse().unwrap()
    }

    /// Holds a lock on the table, so that COPY waits, for as long as `during` runs.
    pub fn with_locked_table(&self, during: impl FnOnce()) {
        let sql = format!("BEGIN; LOCK TABLE {}.{TABLE} IN ACCESS EXCLUSIVE MODE", self.name);
        let mut connection = self.runtime.block_on(self.connect());
        self.runtime.block_on(sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection)).unwrap();
        during();
        self.runtime.block_on(connection.close()).unwrap();
    }

    /// Waits until the table has so many rows, then a little longer, and checks that each of 0..rows is there
    /// once.
    pub fn assert_each_once(&self, rows: i64) {
        let count = || self.number("SELECT count(*) FROM {schema}.telemetry");
        wait_until(|| count() >= rows).unwrap_or_else(|()| panic!("{} of {rows} rows arrived", count()));
        // Duplicates that are still on their way belong to the truth too.
        thread::sleep(Duration::from_secs(2));
        let found = self.query("SELECT count(*), count(DISTINCT n), min(n), max(n) FROM {schema}.telemetry");
        assert_eq!(found, [format!("{rows}|{rows}|0|{}", rows - 1)], "rows, distinct, first, last");
    }

    /// Waits until there are so many dead letters; answers offset, reason and stage of each.
    pub fn dead_letters(&self, count: usize) -> Vec<String> {
        let sql = "SELECT \"offset\", reason, stage FROM {schema}.telemetry_dead_letters \
                   ORDER BY partition, \"offset\"";
        let _ = wait_until(|| self.query(sql).len() >= count);
        self.query(sql)
    }

    /// Puts a value where the processor finds it, or another one in its place, at once.
    pub fn mount(&self, purpose: SecretPurpose, key: &str, value: &str) {
        let directory = self.directory.join(purpose.to_string());
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(".new"), value).unwrap();
        fs::rename(directory.join(".new"), directory.join(key)).unwrap();
    }

    /// Takes a Secret away.
    pub fn unmount(&self, purpose: SecretPurpose) {
        fs::remove_dir_all(self.directory.join(purpose.to_string())).unwrap();
    }

    /// Mounts an authority: a Secret of those that tests may use.
    pub fn mount_ca(&self, purpose: SecretPurpose, secret: &str) {
        self.mount(purpose, CA_FILE, &test_secret(secret, "ca.crt"));
    }

    /// Mounts a client certificate: a Secret of those that tests may use.
    pub fn mount_client(&self, purpose: SecretPurpose, secret: &str) {
        self.mount(purpose, CERTIFICATE_FILE, &test_secret(secret, "tls.crt"));
        self.mount(purpose, KEY_FILE, &test_secret(secret, "tls.key"));
    }

    /// Mounts the tests' database as another role, or at another host, sees it.
    pub fn mount_database(&self, change: impl FnOnce(&mut Url)) {
        let mut url = Url::parse(&variable("IOTPIPELINE_TEST_TIMESCALE")).unwrap();
        change(&mut url);
        self.mount(SecretPurpose::Timescale, "uri", url.as_str());
    }

    /// Starts a processor; does not wait for it.
    pub fn start(&self) -> Processor {
        self.start_in(&[])
    }

    /// The same with these variables in its environment.
    pub fn start_in(&self, environment: &[(&str, &str)]) -> Processor {
        let config = WorkerConfig {
            version: WORKER_CONFIG_VERSION,
            pipeline: PipelineId {
                cluster_name: "test".into(),
                namespace: "test".into(),
                name: self.name.clone(),
            },
            kafka: self.kafka.clone(),
            role: RoleConfig::Processor(self.config.clone()),
        };
        let path = self.directory.join("worker.json");
        fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
        let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_iotpipeline-worker"))
            .args(["process", "--http-address", &http.to_string()])
            .args(["--config".as_ref(), path.as_os_str()])
            .args(["--secrets".as_ref(), self.directory.as_os_str()])
            .args(["--state".as_ref(), self.directory.as_os_str()])
            .envs(environment.iter().copied())
            .spawn()
            .unwrap();
        Processor { child, http }
    }

    /// Starts a processor and waits until it is ready.
    pub fn start_ready(&self) -> Processor {
        let processor = self.start();
        processor.wait_for("ready", |status| status.ready);
        processor
    }

    pub fn producer(&self) -> Records {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", kafka_address())
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("message.max.bytes", "8000000")
            .create()
            .unwrap();
        Records { producer, topic: self.name.clone() }
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
        if !thread::panicking() {
            self.execute("DROP SCHEMA {schema} CASCADE");
            let deleted = self.admin();
            let _ = self.runtime.block_on(deleted.delete_topics(&[&self.name], &AdminOptions::new()));
        }
    }
}

fn config(name: &str) -> ProcessorConfig {
    let column = |name: &str, column_type, nullable| ColumnConfig {
        name: name.into(),
        column_type,
        from: vec![name.into()],
        nullable,
    };
    ProcessorConfig {
        consumer_group: name.into(),
        start_from: StartFrom::Earliest,
        on_offset_lost: OnOffsetLost::Fail,
        max_rejected_percent: 50,
        codec: CodecType::Json,
        has_bridge: true,
        database_tls: DatabaseTlsConfig::default(),
        program: None,
        accept_time: AcceptTimeConfig::default(),
        table: TableConfig {
            schema: name.into(),
            name: TABLE.into(),
            columns: vec![
                column("time", ColumnType::Timestamptz, false),
                column("device", ColumnType::Text, false),
                column("n", ColumnType::Bigint, true),
                column("value", ColumnType::DoublePrecision, true),
            ],
            time_column: "time".into(),
            extra_column: Some("extra".into()),
            unique_by: Vec::new(),
        },
    }
}

/// Writes records to the topic.
pub struct Records {
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: String,
}

impl Records {
    /// One record to one partition.
    pub fn send(&self, partition: i32, payload: &[u8], headers: &[(&str, &str)]) {
        self.send_record(partition, "device", Some(payload), headers);
    }

    /// The same with a key of its own, and with no value at all.
    pub fn send_record(&self, partition: i32, key: &str, payload: Option<&[u8]>, headers: &[(&str, &str)]) {
        let owned = headers.iter().fold(OwnedHeaders::new(), |owned, (key, value)| {
            owned.insert(Header { key, value: Some(*value) })
        });
        let mut record = BaseRecord::to(&self.topic).partition(partition).key(key).headers(owned);
        record.payload = payload;
        while let Err((error, back)) = self.producer.send(record) {
            assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
            thread::sleep(Duration::from_millis(10));
            record = back;
        }
    }

    /// Numbered events, over the partitions in turn.
    pub fn send_events(&self, numbers: std::ops::Range<i64>, partitions: i32) {
        for n in numbers {
            self.send(i32::try_from(n % i64::from(partitions)).unwrap(), event(n).as_bytes(), &[]);
        }
    }

    /// Waits until Kafka has everything.
    pub fn flush(&self) {
        self.producer.flush(PATIENCE).unwrap();
    }
}

/// Produces at a steady rate on a thread of its own while `faults` runs; answers how many events.
pub fn under_load(scenario: &Scenario, partitions: i32, seconds: u32, faults: impl FnOnce()) -> i64 {
    let records: Records = scenario.producer();
    let producing = thread::spawn(move || {
        let per_step = 250;
        for step in 0..i64::from(seconds) * 20 {
            records.send_events(step * per_step..(step + 1) * per_step, partitions);
            thread::sleep(Duration::from_millis(50));
        }
        records.flush();
        i64::from(seconds) * 20 * per_step
    });
    faults();
    producing.join().unwrap()
}

/// A value of the Secrets that tests may use.
pub fn test_secret(secret: &str, key: &str) -> String {
    fs::read_to_string(Path::new(&variable("IOTPIPELINE_TEST_SECRETS")).join(secret).join(key)).unwrap()
}

/// Gives Kafka's superuser commands, which are those of tests/e2e/cluster/kafka-admin.
pub fn administer_kafka(commands: &[String]) {
    let mut child = Command::new(cluster_script("kafka-admin")).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(commands.join("\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "kafka-admin failed");
}

/// Certificate and key of a client with this name, new at each call.
pub fn client_certificate(name: &str) -> (String, String) {
    let directory = std::env::temp_dir().join(format!("certificate-{name}"));
    let made = Command::new(cluster_script("client-certificate")).arg(name).arg(&directory).status();
    assert!(made.unwrap().success(), "client-certificate failed");
    let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap();
    let pair = (read("tls.crt"), read("tls.key"));
    fs::remove_dir_all(&directory).unwrap();
    pair
}

fn cluster_script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/e2e/cluster").join(name)
}

/// An event with a number.
pub fn event(n: i64) -> String {
    format!(
        r#"{{"time":{},"device":"d{}","n":{n},"value":{}.5}}"#,
        1_795_428_000 + n % 1000,
        n % 200,
        n % 100
    )
}

/// A processor as a process of its own, killed when dropped.
pub struct Processor {
    child: Child,
    http: SocketAddr,
}

impl Processor {
    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; waits for the end.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal("TERM");
        self.child.wait().unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.http).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: processor\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer.split_once("\r\n\r\n")?.1.to_owned())
    }

    pub fn status(&self) -> Option<WorkerStatus> {
        serde_json::from_str(&self.get("/status")?).ok()
    }

    /// Waits until the status fits; answers it.
    pub fn wait_for(&self, what: &str, fits: impl Fn(&WorkerStatus) -> bool) -> WorkerStatus {
        let mut last = None;
        wait_until(|| {
            last = self.status();
            last.as_ref().is_some_and(&fits)
        })
        .unwrap_or_else(|()| panic!("the processor did not become {what}: {last:?}"));
        last.unwrap()
    }

    /// Waits until it is not ready for this reason; answers the message.
    pub fn wait_for_problem(&self, reason: &str) -> String {
        let status = self.wait_for(reason, |status| {
            !status.ready && status.problem.as_ref().is_some_and(|problem| problem.reason == reason)
        });
        status.problem.unwrap().message
    }

    /// Waits for the end.
    pub fn wait_for_end(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// The most memory that it ever had, bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// The value of a metric with these labels; 0 where it was never counted.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("iotpipeline_processor_{name} ")));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

impl Drop for Processor {
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
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
