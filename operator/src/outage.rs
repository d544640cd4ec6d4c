//! Servers that did not answer when they were asked last. To ask one takes its whole deadline, and a thousand pipelines
//! may want to know: so of a server that is away one asks at a time, and all others hear what was said last. No I/O.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// After this time nobody is interested in a server any more.
const MEMORY: Duration = Duration::from_secs(3600);

/// The servers that are away, by how they are reached, each with what was said last.
#[derive(Debug)]
pub struct Outages<K, E>(Mutex<HashMap<K, Outage<E>>>);

#[derive(Debug)]
struct Outage<E> {
    said: E,
    at: Instant,
    is_asked: bool,
}

/// The permission to ask a server.
#[derive(Debug)]
pub struct Attempt<'a, K: Clone + Eq + Hash, E: Clone> {
    outages: &'a Outages<K, E>,
    server: &'a K,
    /// Whether others wait for what comes of it.
    is_only_one: bool,
}

impl<K: Clone + Eq + Hash, E: Clone> Outages<K, E> {
    /// Begins to ask a server.
    ///
    /// # Errors
    /// Fails with what was said last where the server is away and another one asks it now.
    pub fn attempt<'a>(&'a self, server: &'a K) -> Result<Attempt<'a, K, E>, E> {
        let mut outages = self.lock();
        outages.retain(|_, outage| outage.is_asked || outage.at.elapsed() < MEMORY);
        let is_only_one = match outages.get_mut(server) {
            None => false,
            Some(outage) if outage.is_asked => return Err(outage.said.clone()),
            Some(outage) => {
                outage.is_asked = true;
                true
            }
        };
        Ok(Attempt { outages: self, server, is_only_one })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Outage<E>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash, E: Clone> Attempt<'_, K, E> {
    /// The server has answered, whatever it said.
    pub fn succeed(self) {
        self.outages.lock().remove(self.server);
    }

    /// The server does not answer.
    pub fn fail(self, said: E) {
        let mut outages = self.outages.lock();
        let is_asked = !self.is_only_one && outages.get(self.server).is_some_and(|outage| outage.is_asked);
        outages.insert(self.server.clone(), Outage { said, at: Instant::now(), is_asked });
    }
}

/// One that is given up leaves it to the next.
impl<K: Clone + Eq + Hash, E: Clone> Drop for Attempt<'_, K, E> {
    fn drop(&mut self) {
        if self.is_only_one
            && let Some(outage) = self.outages.lock().get_mut(self.server)
        {
            outage.is_asked = false;
        }
    }
}

impl<K, E> Default for Outages<K, E> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_server_that_is_away_one_asks_at_a_time() {
        let outages = Outages::default();
        let first = outages.attempt(&"a").unwrap();
        let second = outages.attempt(&"a").unwrap();
        first.fail("silence");
        let third = outages.attempt(&"a").unwrap();
        assert_eq!(outages.attempt(&"a").unwrap_err(), "silence");
        second.fail("refused");
        assert_eq!(outages.attempt(&"a").unwrap_err(), "refused");
        assert!(outages.attempt(&"b").is_ok(), "others are not concerned");
        drop(third);
        let fourth = outages.attempt(&"a").unwrap();
        assert_eq!(outages.attempt(&"a").unwrap_err(), "refused");
        fourth.succeed();
        let all: Vec<_> = (0..3).map(|_| outages.attempt(&"a")).collect();
        assert!(all.iter().all(Result::is_ok), "it is back for everybody");
    }
}
