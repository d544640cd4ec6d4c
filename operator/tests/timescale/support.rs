//! A database of either edition to work in, and what the tests ask of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use access::database::{DatabaseAccess, DatabaseTls};
use crds::{pipeline::ColumnType, status::Reason, worker::PipelineId};
use operator::{
    change::{Approvals, Change},
    kafka::TopicKey,
    pipeline::{Column, Index, SortOrder, SqlIdent, Table, WantedTable},
    timescale::{
        BuildKind, Built, Databases, DirectDatabases, Edition, FillProgress, IndexBuild, ObservedTable,
        Session, TableDeletion, TablePlan, plan, retentions_in_force,
    },
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::sync::{Mutex, MutexGuard};

/// Table and dead letters shall go.
pub const ALL: TableDeletion = TableDeletion { table: true, dead_letters: true };

pub const DAY: Duration = Duration::from_secs(86_400);

/// A database to work in, with a schema of its own for each scenario.
#[derive(Clone)]
pub struct Test {
    pub access: DatabaseAccess,
    /// Another role that may do everything in the same database.
    pub superuser: DatabaseAccess,
    /// The same role in the database that the environment names.
    pub server: DatabaseAccess,
    pub edition: Edition,
    pub schema: SqlIdent,
    pub pipeline: PipelineId,
    /// What the others wait for, where the server has one session for all.
    pub _turn: Option<Arc<MutexGuard<'static, ()>>>,
}

/// Whose turn it is on the Community server.
static TURN: Mutex<()> = Mutex::const_new(());

impl Test {
    pub async fn apache2() -> Self {
        Self::new("IOTPIPELINE_TEST_TIMESCALE", Edition::Apache2)
    }

    pub async fn community() -> Self {
        let _turn = Some(Arc::new(TURN.lock().await));
        let test = Self { _turn, ..Self::new("IOTPIPELINE_TEST_TIMESCALE_COMMUNITY", Edition::Community) };
        test.sql("CREATE EXTENSION IF NOT EXISTS timescaledb SCHEMA public").await;
        test
    }

    fn new(variable: &str, edition: Edition) -> Self {
        let uri = std::env::var(variable).unwrap_or_else(|_| {
            panic!("{variable} must name a TimescaleDB server as postgres://superuser:password@host:port/database: run `make test`")
        });
        // A server that takes any password may be named without one.
        let uri = match uri.split_once('@') {
            Some((user, place)) if user.matches(':').count() == 1 => format!("{user}:any@{place}"),
            _ => uri,
        };
        let value_of = |key: &str| (key == "uri").then(|| uri.clone());
        let access = DatabaseAccess::from_secret(value_of, "default", DatabaseTls::default()).unwrap();
        Self {
            superuser: access.clone(),
            server: access.clone(),
            access,
            edition,
            schema: SqlIdent::parse(&format!("test_{}", unique())).unwrap(),
            pipeline: PipelineId { cluster_name: "c".into(), namespace: "n".into(), name: "p".into() },
            _turn: None,
        }
    }

    /// The same test in a new database without the extension, as a new role that owns the database or may only
    /// connect to it.
    pub async fn database_of_a_role(&self, role: &str, right: &str) -> Self {
        let name = format!("{role}_{}", unique());
        self.sql(&format!("CREATE ROLE {name} LOGIN PASSWORD 'x'")).await;
        self.sql(&format!("CREATE DATABASE {name}")).await;
        self.sql(&match right {
            "OWNER" => format!("ALTER DATABASE {name} OWNER TO {name}"),
            right => format!("GRANT {right} ON DATABASE {name} TO {name}"),
        })
        .await;
        let superuser = DatabaseAccess { database: name.clone(), ..self.superuser.clone() };
        let access = DatabaseAccess { username: name, password: "x".into(), ..superuser.clone() };
        Self { access, superuser, ..self.clone() }
    }

    pub async fn run(self, scenario: impl AsyncFnOnce(&Self)) {
        scenario(&self).await;
        self.finish().await;
    }

    /// Leaves the server as it was.
    pub async fn finish(self) {
        if self.superuser == self.server {
            self.sql(&format!("DROP SCHEMA IF EXISTS {} CASCADE", self.schema)).await;
            return;
        }
        let server = Self { superuser: self.server.clone(), ..self.clone() };
        server.sql(&format!("DROP DATABASE {} WITH (FORCE)", self.superuser.database)).await;
        server.sql(&format!("DROP ROLE {}", self.access.username)).await;
    }

    pub fn as_superuser(&self) -> Self {
        Self { access: self.superuser.clone(), ..self.clone() }
    }

    pub fn table(&self, name: &str) -> Table {
        let ident = |name| SqlIdent::parse(name).unwrap();
        let column = |name, column_type, nullable| Column { name: ident(name), column_type, nullable };
        Table {
            schema: self.schema.clone(),
            name: ident(name),
            columns: vec![
                column("time", ColumnType::Timestamptz, false),
                column("device", ColumnType::Text, false),
                column("temperature", ColumnType::DoublePrecision, true),
                column("extra", ColumnType::Jsonb, true),
            ],
            time_column: ident("time"),
            unique_by: Vec::new(),
            writer: self.access.username.clone(),
            dead_letters_drop_after: None,
            wanted: Some(WantedTable {
                chunk_interval: DAY,
                indexes: vec![Index {
                    columns: vec![
                        (ident("device"), SortOrder::Ascending),
                        (ident("time"), SortOrder::Descending),
                    ],
                }],
                drop_after: None,
                columnstore: None,
                adopt: false,
                rollups: Vec::new(),
            }),
        }
    }

    pub async fn open(&self) -> Box<dyn Session> {
        DirectDatabases::without_reuse().open(&self.access).await.unwrap()
    }

    pub async fn observe(&self, table: &Table) -> ObservedTable {
        let mut session = self.open().await;
        let observed = session.observe(table, None).await.unwrap();
        session.close().await;
        observed
    }

    pub async fn plan(&self, table: &Table) -> TablePlan {
        plan(table, &self.pipeline, &self.observe(table).await, &Approvals::default())
    }

    /// Plans and applies until nothing is left, as reconciliations do; answers what changed.
    pub async fn bring_about(&self, table: &Table) -> Vec<String> {
        let mut changes = Vec::new();
        loop {
            let plan = self.plan(table).await;
            let mut session = self.open().await;
            session.apply(table, &plan).await.unwrap();
            for build in &plan.builds {
                assert_eq!(session.build_index(table, build).await.unwrap(), Built::Made);
            }
            let mut is_filled = false;
            for fill in &plan.fills {
                match session.fill_rollup(table, fill).await.unwrap() {
                    FillProgress::Filled => is_filled = true,
                    FillProgress::CaughtUp => break,
                    FillProgress::Unfinished => panic!("{fill:?}"),
                }
            }
            session.close().await;
            let steps = plan.steps.iter().chain(plan.builds.iter().map(|build| &build.step));
            changes.extend(steps.flat_map(|step| &step.changes).map(Change::to_string));
            if !plan.unfinished && !is_filled {
                return changes;
            }
        }
    }

    /// The plan for this generation of a spec, where a person approves all that waits for it, or nothing.
    pub async fn plan_generation(&self, table: &Table, generation: i64, is_approved: bool) -> TablePlan {
        let approvals = Approvals::new(generation, None, &[]);
        let observed = self.observe(table).await;
        let planned = plan(table, &self.pipeline, &observed, &approvals);
        if !is_approved || planned.held.is_empty() {
            return planned;
        }
        let hashes: Vec<_> = planned.held.iter().map(|change| approvals.hash(change)).collect();
        let approvals = Approvals::new(generation, Some(&hashes.join(",")), &[]);
        plan(table, &self.pipeline, &observed, &approvals)
    }

    /// Plans and applies until nothing is left, as reconciliations of this generation of a spec do, where a person approves
    /// all that waits for it, or nothing. What is refused in the end. The context is for whoever finds it failed.
    pub async fn bring_about_generation(
        &self,
        table: &Table,
        generation: i64,
        is_approved: bool,
        context: &str,
    ) -> Vec<Reason> {
        loop {
            let planned = self.plan_generation(table, generation, is_approved).await;
            let mut session = self.open().await;
            let applied = session.apply(table, &planned).await;
            applied.unwrap_or_else(|error| panic!("{error}: {planned:?}\n{context}"));
            let mut refusals: Vec<_> = planned.refusals.iter().map(|refusal| refusal.reason).collect();
            for build in &planned.builds {
                match session.build_index(table, build).await {
                    Ok(Built::Contradicted) => refusals.push(contradiction(build).unwrap()),
                    built => assert_eq!(built.unwrap(), Built::Made, "{context}"),
                }
            }
            let mut goes_on = planned.unfinished;
            for fill in &planned.fills {
                match session.fill_rollup(table, fill).await {
                    Ok(FillProgress::CaughtUp) => {}
                    Ok(FillProgress::Filled | FillProgress::Unfinished) => goes_on = true,
                    Err(error) => panic!("{error}: {fill:?}\n{context}"),
                }
            }
            session.close().await;
            if !goes_on {
                return refusals;
            }
        }
    }

    pub async fn plan_from(&self, table: &Table, pipeline: &PipelineId, topic: &TopicKey) -> TablePlan {
        let mut session = self.open().await;
        let observed = session.observe(table, Some(topic)).await.unwrap();
        session.close().await;
        plan(table, pipeline, &observed, &Approvals::default())
    }

    /// Applies the plan of a pipeline that reads the topic.
    pub async fn bring_about_from(&self, table: &Table, pipeline: &PipelineId, topic: &TopicKey) {
        let plan = self.plan_from(table, pipeline, topic).await;
        assert_eq!(plan.refusals, []);
        let mut session = self.open().await;
        session.apply(table, &plan).await.unwrap();
        session.close().await;
    }

    /// The plan is refused for lack of rights; whoever runs the SQL of the message has helped.
    pub async fn grant_what_the_refusal_says(&self, table: &Table, expected: &[&str]) {
        let plan = self.plan(table).await;
        assert_eq!((plan.steps.len(), plan.refusals.len()), (0, 1), "{plan:?}");
        assert_eq!(plan.refusals[0].reason, Reason::PermissionMissing);
        let message = &plan.refusals[0].message;
        for part in expected {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        let (_, sql) = message.split_once(": ").unwrap();
        self.sql(sql).await;
    }

    /// Lets expired rows go now: by the server's jobs, or by the operator where the edition has none.
    pub async fn drop_expired(&self, table: &Table) {
        let observed = self.observe(table).await;
        for (name, retention) in retentions_in_force(table, &self.pipeline, &observed, &Approvals::default())
        {
            match (self.edition, retention.drop_after()) {
                (Edition::Community, _) => self.run_job(&name).await,
                (Edition::Apache2, None) => {}
                (Edition::Apache2, Some(drop_after)) => {
                    let mut session = self.open().await;
                    session.drop_expired_chunks(&table.schema, &name, drop_after).await.unwrap();
                    session.close().await;
                }
            }
        }
    }

    async fn run_job(&self, hypertable: &str) {
        let job = self
            .number(&format!(
                "SELECT coalesce(max(job_id), 0)::bigint FROM timescaledb_information.jobs \
                 WHERE hypertable_schema = '{}' AND hypertable_name = '{hypertable}'",
                self.schema
            ))
            .await;
        if job > 0 {
            self.sql(&format!("CALL public.run_job({job})")).await;
        }
    }

    /// Runs SQL as the superuser, as a person would.
    pub async fn sql(&self, sql: &str) {
        let mut connection = self.connect().await;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    pub async fn number(&self, sql: &str) -> i64 {
        let mut connection = self.connect().await;
        let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        row.get::<i64, _>(0)
    }

    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let mut connection = self.connect().await;
        let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        rows.iter().map(|row| row.get::<String, _>(0)).collect()
    }

    pub async fn connect(&self) -> PgConnection {
        let DatabaseAccess { host, port, database, username, password, tls: _ } = &self.superuser;
        let uri = format!("postgres://{username}:{password}@{host}:{port}/{database}?sslmode=disable");
        let mut connection = PgConnection::connect(&uri).await.unwrap();
        // A server of one session for ever still has whatever the last connection left.
        for statement in ["ROLLBACK", "DISCARD ALL"] {
            sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
        }
        connection
    }
}

/// What is said where rows contradict the index.
pub fn contradiction(build: &IndexBuild) -> Option<Reason> {
    match &build.kind {
        BuildKind::PerChunk { .. } | BuildKind::Drop => None,
        BuildKind::Unique { refusal } => Some(refusal.reason),
    }
}

/// An end for a name that no other test has, in this run or another one.
pub fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // Tests begin in the same microsecond: the time alone is not enough.
    format!("{}_{}", now_micros(), COUNT.fetch_add(1, Ordering::Relaxed))
}

pub fn now_micros() -> u128 {
    UNIX_EPOCH.elapsed().unwrap().as_micros()
}

pub fn wanted(table: &mut Table) -> &mut WantedTable {
    table.wanted.as_mut().unwrap()
}
