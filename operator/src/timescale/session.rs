//! The real database, through one direct connection. I/O.

use crds::database::DatabaseAccess;
use futures::future::BoxFuture;

use super::{Databases, Error, Session};

/// Connects to the database itself, without a pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectDatabases;

impl Databases for DirectDatabases {
    fn open<'a>(&'a self, access: &'a DatabaseAccess) -> BoxFuture<'a, Result<Box<dyn Session>, Error>> {
        Box::pin(async move {
            Err(Error::Unreachable {
                action: "connect".to_owned(),
                database: format!("{}:{}/{}", access.host, access.port, access.database),
                advice: "not implemented yet".to_owned(),
            })
        })
    }
}
