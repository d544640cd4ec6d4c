//! Which of several operators acts: the one that holds the Lease. Two never act at once.
//!
//! Every write names the version of the Lease that was read, so of two that reach for it one fails. A holder that
//! cannot renew stops acting [`Timing::deadline`] after it sent its last successful renewal; others wait
//! [`Timing::duration`], which is longer, from when they saw that renewal. Both are measured by the own clock that never
//! jumps, so it does not matter what time of day two nodes believe it is.

mod overdue;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, Client, api::PostParams, core::ObjectMeta};
use snafu::{ResultExt, Snafu};
use tokio::time::{error::Elapsed, sleep, timeout};

use self::overdue::Watchdog;
use crate::telemetry::chain;

/// How often a release is tried: a renewal that was on its way can be in its way.
const RELEASE_ATTEMPTS: u32 = 3;

/// How long everything about a Lease takes.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// How long others wait since they last saw a renewal.
    duration: Duration,
    /// How long the holder acts since it began its last renewal.
    deadline: Duration,
    /// How often to renew or to look.
    retry: Duration,
    /// How long one request may take.
    request: Duration,
}

/// One operator's part in the election.
#[derive(Debug)]
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    timing: Timing,
    seen: Option<Seen>,
}

/// The Lease as it was read last, and since when it has been so.
#[derive(Debug)]
struct Seen {
    spec: LeaseSpec,
    since: Instant,
}

/// Proof that the Lease is held. Dropped, it no longer watches over the deadline.
#[derive(Debug)]
pub struct Tenure(Watchdog);

/// How one look at the Lease ended.
#[derive(Clone, Debug, PartialEq)]
enum Look {
    /// It is this operator's.
    Held,
    /// It is this other operator's.
    HeldBy(String),
}

/// Why the Lease could not be looked at or written.
#[derive(Debug, Snafu)]
enum Error {
    #[snafu(display("failed to {action} the Lease"))]
    Request { action: &'static str, source: kube::Error },
    #[snafu(display("failed to {action} the Lease in time"))]
    Slow { action: &'static str, source: Elapsed },
}

impl Default for Timing {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { duration: seconds(30), deadline: seconds(20), retry: seconds(2), request: seconds(4) }
    }
}

impl Election {
    /// Takes part in the election for the Lease `namespace`/`name` under a name that no other operator has.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        let api = Api::namespaced(client, namespace);
        let timing = Timing::default();
        Self { api, name: name.to_owned(), identity: identity.to_owned(), timing, seen: None }
    }

    /// Waits until this operator holds the Lease. `stands_by` is called after each look at a Lease that another holds.
    /// `overdue` is called, on a thread of its own, where the Lease is not renewed in time; it must end the process.
    pub async fn acquire(
        &mut self,
        mut stands_by: impl FnMut(&str),
        overdue: impl FnOnce() + Send + 'static,
    ) -> Tenure {
        loop {
            let now = Instant::now();
            match self.look(now).await {
                Ok(Look::Held) => return Tenure(Watchdog::start(now + self.timing.deadline, overdue)),
                Ok(Look::HeldBy(holder)) => stands_by(&holder),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "The Lease could not be had; tried again")
                }
            }
            sleep(self.timing.retry).await;
        }
    }

    /// Renews the Lease for as long as it can be; returns who holds it instead, when that is so.
    pub async fn keep(&mut self, tenure: &Tenure) -> String {
        loop {
            sleep(self.timing.retry).await;
            let now = Instant::now();
            match self.look(now).await {
                Ok(Look::Held) => tenure.0.postpone(now + self.timing.deadline),
                Ok(Look::HeldBy(holder)) => return holder,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "The Lease was not renewed; tried again")
                }
            }
        }
    }

    /// Lets go of the Lease, so that another need not wait until it runs out. To be called when nothing acts any more.
    pub async fn release(&mut self, tenure: Tenure) {
        for _ in 0..RELEASE_ATTEMPTS {
            match self.try_to_release().await {
                Ok(()) => break,
                Err(error) => tracing::warn!(error = %chain(&error), "The Lease was not released"),
            }
        }
        drop(tenure);
    }

    /// Reads the Lease, and takes or renews it where that is right. `now` is before all of that: a tenure never seems
    /// longer than it is, and what another has renewed seems older by the time of one request at most.
    async fn look(&mut self, now: Instant) -> Result<Look, Error> {
        let Some(mut lease) = self.request("read", self.api.get_opt(&self.name)).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            return self.write(Lease { metadata, spec: None }).await;
        };
        let spec = lease.spec.take().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|seen| seen.spec != spec) {
            self.seen = Some(Seen { spec: spec.clone(), since: now });
        }
        let since = self.seen.as_ref().map_or(now, |seen| seen.since);
        match holder(&spec) {
            Some(holder) if holder != self.identity && now < since + self.patience(&spec) => {
                Ok(Look::HeldBy(holder.to_owned()))
            }
            _ => self.write(Lease { spec: Some(spec), ..lease }).await,
        }
    }

    /// How long another holder is waited for: as long as it said, and never less than this operator itself would.
    fn patience(&self, spec: &LeaseSpec) -> Duration {
        let said = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        self.timing.duration.max(Duration::from_secs(said.unwrap_or_default()))
    }

    /// Writes this operator into a Lease as it was read, or that does not exist yet.
    async fn write(&self, lease: Lease) -> Result<Look, Error> {
        let is_new = lease.metadata.resource_version.is_none();
        let before = lease.spec.unwrap_or_default();
        let is_renewal = holder(&before) == Some(&self.identity);
        let now = Some(MicroTime(Timestamp::now()));
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.duration.as_secs()).ok(),
            acquire_time: if is_renewal { before.acquire_time } else { now.clone() },
            renew_time: now,
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!is_renewal)),
            ..LeaseSpec::default()
        };
        let lease = Lease { spec: Some(spec), metadata: lease.metadata };
        let params = PostParams::default();
        let written = if is_new {
            self.request("create", self.api.create(&params, &lease)).await
        } else {
            self.request("write", self.api.replace(&self.name, &params, &lease)).await
        };
        match written {
            Ok(_) => Ok(Look::Held),
            // Another was faster. Who it is will show at the next look; a renewal is tried again then.
            Err(error) if error.is_conflict() && !is_renewal => Ok(Look::HeldBy(String::new())),
            Err(error) => Err(error),
        }
    }

    async fn try_to_release(&self) -> Result<(), Error> {
        let lease = self.request("read", self.api.get_opt(&self.name)).await?;
        let Some(mut lease) = lease else { return Ok(()) };
        let Some(spec) = lease.spec.as_mut().filter(|spec| holder(spec) == Some(&self.identity)) else {
            return Ok(());
        };
        spec.holder_identity = None;
        spec.renew_time = None;
        spec.acquire_time = None;
        self.request("release", self.api.replace(&self.name, &PostParams::default(), &lease))
            .await
            .map(|_| ())
    }

    async fn request<T>(
        &self,
        action: &'static str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        timeout(self.timing.request, request)
            .await
            .context(SlowSnafu { action })?
            .context(RequestSnafu { action })
    }
}

impl Error {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Request { source: kube::Error::Api(status), .. } if status.code == 409)
    }
}

fn holder(spec: &LeaseSpec) -> Option<&str> {
    spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

#[cfg(test)]
mod tests;
