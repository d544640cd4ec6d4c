//! The real database, through one direct connection. I/O.

use std::{collections::BTreeMap, time::Duration};

use access::database::DatabaseAccess;
use crds::worker::PipelineId;
use futures::future::BoxFuture;
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::{
    Databases, Error, ObservedTable, Position, Session, TablePlan,
    effects::{self, Claim},
    error::TopicTakenSnafu,
    execute::run,
    observe::observe,
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

/// How long the changes of one plan may take: an index on a large table has its time.
const CHANGE_DEADLINE: Duration = Duration::from_secs(600);

/// What every session begins with. Whoever waits for a lock stands in the way of the workers, so briefly.
const SETTINGS: &str = "SET search_path = pg_catalog; SET statement_timeout = '10min'; SET lock_timeout = '5s'; \
                        SET idle_in_transaction_session_timeout = '60s'; SET client_min_messages = warning";

/// Connects to the database itself, without a pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectDatabases;

struct DirectSession {
    connection: PgConnection,
    /// Host, port and database, for messages.
    database: String,
}

impl Databases for DirectDatabases {
    fn open<'a>(&'a self, access: &'a DatabaseAccess) -> BoxFuture<'a, Result<Box<dyn Session>, Error>> {
        Box::pin(async move {
            let database = format!("{}:{}/{}", access.host, access.port, access.database);
            let connect = async {
                let mut connection =
                    access.options(APPLICATION_NAME).disable_statement_logging().connect().await?;
                run(&mut connection, SETTINGS).await?;
                Ok(connection)
            };
            let connection = within(DEADLINE, "connect to the database", &database, connect).await?;
            let session: Box<dyn Session> = Box::new(DirectSession { connection, database });
            Ok(session)
        })
    }
}

impl Session for DirectSession {
    fn observe<'a>(
        &'a mut self,
        table: &'a Table,
        topic: Option<&'a TopicKey>,
    ) -> BoxFuture<'a, Result<ObservedTable, Error>> {
        Box::pin(async move {
            let action = format!("read table {table}");
            within(DEADLINE, &action, &self.database, observe(&mut self.connection, table, topic)).await
        })
    }

    fn apply<'a>(&'a mut self, table: &'a Table, plan: &'a TablePlan) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let action = format!("change table {table}");
            let effect = effects::apply(&mut self.connection, table, plan);
            within(CHANGE_DEADLINE, &action, &self.database, effect).await
        })
    }

    fn claim_topic<'a>(
        &'a mut self,
        schema: &'a SqlIdent,
        pipeline: &'a PipelineId,
        topic: &'a TopicKey,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let action = format!("claim topic {}", topic.topic);
            let effect = effects::claim_topic(&mut self.connection, schema, pipeline, topic);
            match within(DEADLINE, &action, &self.database, effect).await? {
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
            within(DEADLINE, &action, &self.database, effect).await
        })
    }

    fn drop_expired_chunks<'a>(&'a mut self, table: &'a Table) -> BoxFuture<'a, Result<Vec<Change>, Error>> {
        Box::pin(async move {
            let action = format!("drop expired chunks of table {table}");
            let effect = effects::drop_expired_chunks(&mut self.connection, table);
            within(CHANGE_DEADLINE, &action, &self.database, effect).await
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
            within(DEADLINE, &action, &self.database, effect).await
        })
    }

    fn delete_table<'a>(
        &'a mut self,
        table: &'a Table,
        pipeline: &'a PipelineId,
    ) -> BoxFuture<'a, Result<Vec<Change>, Error>> {
        Box::pin(async move {
            let action = format!("delete table {table}");
            let effect = effects::delete_table(&mut self.connection, table, pipeline);
            within(CHANGE_DEADLINE, &action, &self.database, effect).await
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // The work is done; a server that does not take leave has closed the connection by itself.
            let _ = tokio::time::timeout(DEADLINE, self.connection.close()).await;
        })
    }
}

/// Ends a request at its deadline and sorts what went wrong.
async fn within<T>(
    deadline: Duration,
    action: &str,
    database: &str,
    request: impl Future<Output = sqlx::Result<T>>,
) -> Result<T, Error> {
    match tokio::time::timeout(deadline, request).await {
        Ok(result) => result.map_err(|error| Error::from_sqlx(error, action, database)),
        Err(_) => Err(Error::Unreachable {
            action: action.to_owned(),
            database: database.to_owned(),
            explanation: format!(
                "nothing came within {} s; check the address, network policies and that the server runs",
                deadline.as_secs()
            ),
        }),
    }
}
