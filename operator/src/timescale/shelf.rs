//! Connections that no session uses now, by how they were made. I/O.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use access::database::DatabaseAccess;
use sqlx::{Connection, PgConnection};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};

/// How many sessions with one database there are at once. What reconciles more pipelines than that waits.
const SESSIONS: usize = 16;

/// How many connections wait at most, to all databases together. More would be a burden without a use.
const CAPACITY: usize = 32;

/// How long a connection waits to be used again. A single pipeline makes a new one each time: nobody, and least of all who
/// wants to drop a database, shall find the operator there without a reason.
const IDLE: Duration = Duration::from_secs(2);

/// How long a connection is used: a server that was failed over to, or a user's new settings, are found in the end.
const LIFE: Duration = Duration::from_secs(300);

/// How long saying goodbye may take.
const FAREWELL: Duration = Duration::from_secs(10);

/// Connections that wait to be used again. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Shelf(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    /// The one that was put last comes last.
    waiting: Vec<Waiting>,
    permits: HashMap<DatabaseAccess, Arc<Semaphore>>,
    is_swept: bool,
    /// Whether nothing is kept.
    is_closed: bool,
}

#[derive(Debug)]
struct Waiting {
    access: DatabaseAccess,
    connection: PgConnection,
    begun: Instant,
    since: Instant,
}

impl Shelf {
    /// One that keeps nothing.
    pub fn closed() -> Self {
        Self(Arc::new(Mutex::new(Contents { is_closed: true, ..Contents::default() })))
    }

    /// Waits until there are fewer than the allowed sessions with this database.
    pub async fn permit(&self, access: &DatabaseAccess) -> Option<OwnedSemaphorePermit> {
        let permits = {
            let mut contents = self.lock();
            contents.permits.retain(|_, permits| Arc::strong_count(permits) > 1);
            let permits = contents.permits.entry(access.clone());
            Arc::clone(permits.or_insert_with(|| Arc::new(Semaphore::new(SESSIONS))))
        };
        permits.acquire_owned().await.ok()
    }

    /// A connection to this database and since when there is one: of those that may live on the one that was used last, so
    /// that those that are too many become idle.
    pub fn take(&self, access: &DatabaseAccess) -> Option<(PgConnection, Instant)> {
        let mut contents = self.lock();
        let fits = |waiting: &Waiting| waiting.access == *access && waiting.begun.elapsed() <= LIFE;
        let index = contents.waiting.iter().rposition(fits)?;
        let Waiting { connection, begun, .. } = contents.waiting.remove(index);
        Some((connection, begun))
    }

    /// Keeps a connection for a while, or gives it back.
    pub fn put(
        &self,
        access: DatabaseAccess,
        connection: PgConnection,
        begun: Instant,
    ) -> Option<PgConnection> {
        let mut contents = self.lock();
        if contents.is_closed {
            return Some(connection);
        }
        contents.waiting.push(Waiting { access, connection, begun, since: Instant::now() });
        if !mem::replace(&mut contents.is_swept, true) {
            tokio::spawn(self.clone().sweep());
        }
        None
    }

    /// Closes what nobody wants, until there is nothing left.
    async fn sweep(self) {
        loop {
            sleep(IDLE / 2).await;
            let Some(expired) = self.expired() else { return };
            for waiting in expired {
                close(waiting.connection).await;
            }
        }
    }

    /// Takes out what has waited or lived too long, or is too much; `None` where there is nothing at all.
    fn expired(&self) -> Option<Vec<Waiting>> {
        let mut contents = self.lock();
        if contents.waiting.is_empty() {
            contents.is_swept = false;
            return None;
        }
        let surplus = contents.waiting.len().saturating_sub(CAPACITY);
        let mut index = 0;
        Some(
            contents
                .waiting
                .extract_if(.., |waiting| {
                    index += 1;
                    index <= surplus || waiting.since.elapsed() > IDLE || waiting.begun.elapsed() > LIFE
                })
                .collect(),
        )
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says goodbye to the server.
pub(super) async fn close(connection: PgConnection) {
    // The work is done; a server that does not take leave has closed the connection by itself.
    let _ = timeout(FAREWELL, connection.close()).await;
}
