//! The real database, through one direct connection. I/O.

use std::{collections::BTreeMap, time::Duration};

use access::database::DatabaseAccess;
use crds::worker::PipelineId;
use futures::future::BoxFuture;
use sqlx::{ConnectOptions, Connection, PgConnection, Row};

use super::{
    Built, ChunkSizes, Databases, Deleted, Error, FillProgress, IndexBuild, ObservedTable, Position,
    RollupFill, Session, TableDeletion, TablePlan, deletion,
    effects::{self, Claim},
    error::{PooledSnafu, Server, TopicTakenSnafu},
    execute::statement,
    index_builds,
    observe::{observe, read_chunk_sizes},
    rollups,
};
use crate::{
    change::Change,
    kafka::TopicKey,
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

/// Connects to the database itself, without a pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectDatabases;

struct DirectSession {
    connection: PgConnection,
    /// For messages.
    server: Server,
}

impl Databases for DirectDatabases {
    fn open<'a>(&'a self, access: &'a DatabaseAccess) -> BoxFuture<'a, Result<Box<dyn Session>, Error>> {
        Box::pin(async move {
            let server = Server {
                database: format!("{}:{}/{}", access.host, access.port, access.database),
                role: access.username.clone(),
            };
            let options = access.options(APPLICATION_NAME).options(SETTINGS).disable_statement_logging();
            let connect = async {
                let mut connection = options.connect().await?;
                let is_direct = has_settings(&mut connection).await?;
                Ok((connection, is_direct))
            };
            let action = "connect to the database";
            let (connection, is_direct) =
                within(DEADLINE, action, &server, connect, Error::from_connecting).await?;
            let session = DirectSession { connection, server };
            if is_direct {
                return Ok(Box::new(session) as Box<dyn Session>);
            }
            let database = session.server.database.clone();
            Box::new(session).close().await;
            PooledSnafu { database }.fail()
        })
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
            request(DEADLINE, &action, &self.server, observe(&mut self.connection, table, topic)).await
        })
    }

    fn apply<'a>(&'a mut self, table: &'a Table, plan: &'a TablePlan) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let action = format!("change table {table}");
            let effect = effects::apply(&mut self.connection, table, plan);
            request(CHANGE_DEADLINE, &action, &self.server, effect).await
        })
    }

    fn build_index<'a>(
        &'a mut self,
        table: &'a Table,
        build: &'a IndexBuild,
    ) -> BoxFuture<'a, Result<Built, Error>> {
        Box::pin(async move {
            let action = format!("make index {} of table {table}", build.index);
            let effect = index_builds::build(&mut self.connection, table, build);
            request(BUILD_DEADLINE, &action, &self.server, effect).await
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
            match request(DEADLINE, &action, &self.server, effect).await? {
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
            request(DEADLINE, &action, &self.server, effect).await
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
            request(CHANGE_DEADLINE, &action, &self.server, effect).await
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
            request(CHANGE_DEADLINE, &action, &self.server, effect).await
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
            request(DEADLINE, &action, &self.server, effect).await
        })
    }

    fn chunk_sizes<'a>(&'a mut self, table: &'a Table) -> BoxFuture<'a, Result<ChunkSizes, Error>> {
        Box::pin(async move {
            let Some(wanted) = &table.wanted else { return Ok(ChunkSizes::default()) };
            let (schema, name) = (table.schema.as_str(), table.name.as_str());
            let action = format!("measure the chunks of table {table}");
            let effect = read_chunk_sizes(&mut self.connection, schema, name, wanted.chunk_interval);
            request(DEADLINE, &action, &self.server, effect).await
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
            request(CHANGE_DEADLINE, &action, &self.server, effect).await
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // The work is done; a server that does not take leave has closed the connection by itself.
            let _ = tokio::time::timeout(DEADLINE, self.connection.close()).await;
        })
    }
}

/// A request in a session.
async fn request<T>(
    deadline: Duration,
    action: &str,
    server: &Server,
    request: impl Future<Output = sqlx::Result<T>>,
) -> Result<T, Error> {
    within(deadline, action, server, request, Error::from_sqlx).await
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
