//! The real database, through one direct connection. I/O.
//!
//! To connect costs the server a process and the operator a handshake, so a session that ends in good order lends its
//! connection to the next one for a while.

use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};

use access::database::DatabaseAccess;
use crds::worker::PipelineId;
use futures::future::BoxFuture;
use sqlx::{ConnectOptions, PgConnection, Row};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    Built, ChunkSizes, Databases, Deleted, Error, FillProgress, IndexBuild, ObservedTable, Position,
    RollupFill, Session, TableDeletion, TablePlan, deletion,
    effects::{self, Claim},
    error::{PooledSnafu, Server, TopicTakenSnafu},
    execute::statement,
    index_builds,
    observe::{observe, read_chunk_sizes},
    rollups,
    shelf::{self, Shelf},
};
use crate::{
    change::Change,
    kafka::TopicKey,
    outage::Outages,
    pipeline::{SqlIdent, Table},
};

/// The name under which the server lists the operator's sessions.
const APPLICATION_NAME: &str = "iotpipeline-operator";

/// How long connecting and each reading request may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long the changes of one plan may take.
const CHANGE_DEADLINE: Duration = Duration::from_secs(600);

/// How long an index over rows may take, and a little more than the server is told.
const BUILD_DEADLINE: Duration = index_builds::LIMIT.saturating_add(DEADLINE);

/// What every session is asked for, and not told later: a pooler that shares its sessions refuses or forgets it, and
/// is recognised by that before anything is done through it. As the server itself spells the values. Whoever waits for
/// a lock stands in the way of the workers, so briefly.
const SETTINGS: [(&str, &str); 5] = [
    ("search_path", "pg_catalog"),
    ("statement_timeout", "10min"),
    ("lock_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "1min"),
    ("client_min_messages", "warning"),
];

/// Connects to the database itself, without a pooler. Clones share connections.
#[derive(Clone, Debug, Default)]
pub struct DirectDatabases {
    shelf: Shelf,
    outages: Arc<Outages<DatabaseAccess, Error>>,
}

struct DirectSession {
    connection: PgConnection,
    loan: Loan,
}

/// What there is to know of a session's connection.
struct Loan {
    /// Since when there is a connection.
    begun: Instant,
    /// Whether another session may have it afterwards.
    is_reusable: bool,
    access: DatabaseAccess,
    shelf: Shelf,
    /// One of so many at a time; a session that may take hours has none.
    permit: Option<OwnedSemaphorePermit>,
    /// For messages.
    server: Server,
}

impl Databases for DirectDatabases {
    fn open<'a>(&'a self, access: &'a DatabaseAccess) -> BoxFuture<'a, Result<Box<dyn Session>, Error>> {
        Box::pin(async move {
            // Whoever waits here asks nothing yet, and nobody has to wait for that.
            let permit = self.shelf.permit(access).await;
            let attempt = self.outages.attempt(access)?;
            match self.open_session(access, permit).await {
                Err(error @ Error::Unreachable { .. }) => {
                    attempt.fail(error.clone());
                    Err(error)
                }
                result => {
                    attempt.succeed();
                    result.map(|session| Box::new(session) as Box<dyn Session>)
                }
            }
        })
    }
}

impl DirectDatabases {
    /// Each session makes a connection of its own and closes it: for tests, whose server may take only one at a time.
    pub fn without_reuse() -> Self {
        Self { shelf: Shelf::closed(), ..Self::default() }
    }

    async fn open_session(
        &self,
        access: &DatabaseAccess,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<DirectSession, Error> {
        let server = Server {
            database: format!("{}:{}/{}", access.host, access.port, access.database),
            role: access.username.clone(),
        };
        let loan = |begun| Loan {
            begun,
            is_reusable: true,
            access: access.clone(),
            shelf: self.shelf.clone(),
            permit,
            server: server.clone(),
        };
        // One that the server has closed meanwhile is none, and one that does not answer costs time enough.
        if let Some((mut connection, begun)) = self.shelf.take(access) {
            let asked = tokio::time::timeout(DEADLINE, has_settings(&mut connection)).await;
            if matches!(asked, Ok(Ok(true))) {
                return Ok(DirectSession { connection, loan: loan(begun) });
            }
        }
        let options = access.options(APPLICATION_NAME).options(SETTINGS).disable_statement_logging();
        let connect = async {
            let mut connection = options.connect().await?;
            let is_direct = has_settings(&mut connection).await?;
            Ok((connection, is_direct))
        };
        let action = "connect to the database";
        let (connection, is_direct) =
            within(DEADLINE, action, &server, connect, Error::from_connecting).await?;
        if is_direct {
            return Ok(DirectSession { connection, loan: loan(Instant::now()) });
        }
        shelf::close(connection).await;
        PooledSnafu { database: server.database }.fail()
    }
}

/// Whether the session has the settings that were asked for.
async fn has_settings(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let (names, values): (Vec<_>, Vec<_>) =
        SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().unzip();
    statement("SELECT bool_and(current_setting(name) = value) FROM unnest($1, $2) AS wanted (name, value)")
        .bind(names)
        .bind(values)
        .fetch_one(connection)
        .await?
        .try_get(0)
}

impl Session for DirectSession {
    fn observe<'a>(
        &'a mut self,
        table: &'a Table,
        topic: Option<&'a TopicKey>,
    ) -> BoxFuture<'a, Result<ObservedTable, Error>> {
        Box::pin(async move {
            let action = format!("read table {table}");
            self.loan.request(DEADLINE, &action, observe(&mut self.connection, table, topic)).await
        })
    }

    fn apply<'a>(&'a mut self, table: &'a Table, plan: &'a TablePlan) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let action = format!("change table {table}");
            // What was prepared is there for a new session.
            self.loan.is_reusable &= !plan.unfinished;
            let effect = effects::apply(&mut self.connection, table, plan);
            self.loan.request(CHANGE_DEADLINE, &action, effect).await
        })
    }

    fn build_index<'a>(
        &'a mut self,
        table: &'a Table,
        build: &'a IndexBuild,
    ) -> BoxFuture<'a, Result<Built, Error>> {
        Box::pin(async move {
            let action = format!("make index {} of table {table}", build.index);
            // It takes locks of its session, and its time.
            (self.loan.is_reusable, self.loan.permit) = (false, None);
            let effect = index_builds::build(&mut self.connection, table, build);
            self.loan.request(BUILD_DEADLINE, &action, effect).await
        })
    }

    fn claim_topic<'a>(
        &'a mut self,
        schema: &'a SqlIdent,
        pipeline: &'a PipelineId,
        topic: &'a TopicKey,
        is_adopted: bool,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let action = format!("claim topic {}", topic.topic);
            let effect = effects::claim_topic(&mut self.connection, schema, pipeline, topic, is_adopted);
            match self.loan.request(DEADLINE, &action, effect).await? {
                Claim::Ours => Ok(()),
                Claim::Taken(owner) => TopicTakenSnafu {
                    topic: topic.topic.as_str(),
                    owner: format!("{}/{}/{}", owner.cluster_name, owner.namespace, owner.name),
                }
                .fail(),
            }
        })
    }

    fn release_topic<'a>(
        &'a mut self,
        schema: &'a SqlIdent,
        pipeline: &'a PipelineId,
        topic: &'a TopicKey,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let action = format!("release topic {}", topic.topic);
            let effect = effects::release_topic(&mut self.connection, schema, pipeline, topic);
            self.loan.request(DEADLINE, &action, effect).await
        })
    }

    fn drop_expired_chunks<'a>(
        &'a mut self,
        schema: &'a SqlIdent,
        hypertable: &'a str,
        drop_after: Duration,
    ) -> BoxFuture<'a, Result<Vec<Change>, Error>> {
        Box::pin(async move {
            let action = format!("drop expired chunks of table {schema}.{hypertable}");
            let effect = effects::drop_expired_chunks(&mut self.connection, schema, hypertable, drop_after);
            self.loan.request(CHANGE_DEADLINE, &action, effect).await
        })
    }

    fn fill_rollup<'a>(
        &'a mut self,
        table: &'a Table,
        fill: &'a RollupFill,
    ) -> BoxFuture<'a, Result<FillProgress, Error>> {
        Box::pin(async move {
            let action = format!("fill rollup {}.{}", table.schema, fill.name);
            let effect = rollups::fill(&mut self.connection, table, fill);
            self.loan.request(CHANGE_DEADLINE, &action, effect).await
        })
    }

    fn positions<'a>(
        &'a mut self,
        table: &'a Table,
        topic: &'a TopicKey,
    ) -> BoxFuture<'a, Result<BTreeMap<i32, Position>, Error>> {
        Box::pin(async move {
            let action = format!("read the positions of table {table}");
            let effect = effects::positions(&mut self.connection, table, topic);
            self.loan.request(DEADLINE, &action, effect).await
        })
    }

    fn chunk_sizes<'a>(&'a mut self, table: &'a Table) -> BoxFuture<'a, Result<ChunkSizes, Error>> {
        Box::pin(async move {
            let Some(wanted) = &table.wanted else { return Ok(ChunkSizes::default()) };
            let (schema, name) = (table.schema.as_str(), table.name.as_str());
            let action = format!("measure the chunks of table {table}");
            let effect = read_chunk_sizes(&mut self.connection, schema, name, wanted.chunk_interval);
            self.loan.request(DEADLINE, &action, effect).await
        })
    }

    fn delete_table<'a>(
        &'a mut self,
        table: &'a Table,
        pipeline: &'a PipelineId,
        wanted: TableDeletion,
    ) -> BoxFuture<'a, Result<Deleted, Error>> {
        Box::pin(async move {
            let action = format!("delete table {table}");
            let effect = deletion::delete_table(&mut self.connection, table, pipeline, wanted);
            self.loan.request(CHANGE_DEADLINE, &action, effect).await
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let Self { connection, loan } = *self;
            let left = match loan.is_reusable {
                true => loan.shelf.put(loan.access, connection, loan.begun),
                false => Some(connection),
            };
            if let Some(connection) = left {
                shelf::close(connection).await;
            }
        })
    }
}

impl Loan {
    /// A request in the session. One that fails, or is given up on its way, may leave a transaction behind: nobody else
    /// gets such a connection.
    async fn request<T>(
        &mut self,
        deadline: Duration,
        action: &str,
        request: impl Future<Output = sqlx::Result<T>>,
    ) -> Result<T, Error> {
        let was_reusable = mem::replace(&mut self.is_reusable, false);
        let result = within(deadline, action, &self.server, request, Error::from_sqlx).await;
        self.is_reusable = was_reusable && result.is_ok();
        result
    }
}

/// Ends a request at its deadline and sorts what went wrong.
async fn within<T>(
    deadline: Duration,
    action: &str,
    server: &Server,
    request: impl Future<Output = sqlx::Result<T>>,
    sort: fn(&sqlx::Error, &str, &Server) -> Error,
) -> Result<T, Error> {
    match tokio::time::timeout(deadline, request).await {
        Ok(result) => result.map_err(|error| sort(&error, action, server)),
        Err(_) => Err(Error::Unreachable {
            action: action.to_owned(),
            database: server.database.clone(),
            explanation: format!(
                "nothing came within {} s; check the address, network policies and that the server runs",
                deadline.as_secs()
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use access::database::DatabaseTls;
    use futures::future::join_all;
    use tokio::net::TcpListener;

    use super::*;

    fn access(server: SocketAddr) -> DatabaseAccess {
        let uri = format!("postgres://app:x@{server}/iot");
        let value_of = |key: &str| (key == "uri").then(|| uri.clone());
        DatabaseAccess::from_secret(value_of, "plant-7", DatabaseTls::default()).unwrap()
    }

    /// A server that takes connections and never says a word.
    async fn silent() -> (TcpListener, DatabaseAccess) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let access = access(server.local_addr().unwrap());
        (server, access)
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_is_away_holds_one_up_and_not_all() {
        let (_server, access) = silent().await;
        let databases = DirectDatabases::default();
        let begun = Instant::now();
        assert!(matches!(databases.open(&access).await, Err(Error::Unreachable { .. })));
        assert!(begun.elapsed() >= DEADLINE);

        let attempts = join_all((0..100).map(async |_| {
            let begun = Instant::now();
            assert!(matches!(databases.open(&access).await, Err(Error::Unreachable { .. })));
            begun.elapsed()
        }));
        let slow = attempts.await.into_iter().filter(|took| *took > Duration::from_secs(1)).count();
        assert_eq!(slow, 1);
    }
}
