//! Logs as JSON on standard output, and the registry of metrics.
//!
//! Each part keeps one struct of typed metrics and registers it once, through [`Metrics::register`]. No metric
//! has a label whose values come from messages (topics, devices): their number has no bound.

#[cfg(test)]
pub(crate) mod document;

use std::{
    env,
    error::Error,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{encoding::text, registry::Registry};
use tracing::Level;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, registry, util::SubscriberInitExt};

/// The prefix of every metric of the project.
pub const METRICS_PREFIX: &str = "iotpipeline";

/// Writes logs as JSON lines to standard output; `RUST_LOG` sets the level, `info` without it.
pub fn start_logging() {
    let levels = env::var("RUST_LOG").ok().and_then(|levels| levels.parse().ok());
    let levels = levels.unwrap_or_else(|| Targets::new().with_default(Level::INFO));
    // A second call (two workers in one test process) finds a subscriber in place, which is as good.
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true);
    let _ = registry().with(lines.with_filter(levels)).try_init();
}

/// An error and everything that caused it, in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The worker's metrics. Clones share one registry.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// Hands the registry to `register`, which adds a part's metrics and returns them.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut body = String::new();
        text::encode(&mut body, &self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(body)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Registry::with_prefix(METRICS_PREFIX))))
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn a_registered_metric_is_encoded_with_the_prefix() {
        let metrics = Metrics::default();
        let counter: Counter = metrics.register(|registry| {
            let counter = Counter::default();
            registry.sub_registry_with_prefix("bridge").register("things", "Things", counter.clone());
            counter
        });
        counter.inc();
        assert!(metrics.encode().unwrap().contains("iotpipeline_bridge_things_total 1\n"));
    }

    #[test]
    fn a_chain_names_every_cause() {
        let error =
            crate::config::read("/nonexistent".as_ref(), crds::worker::Component::Bridge, None).unwrap_err();
        assert!(chain(&error).contains("/nonexistent: No such file"), "{}", chain(&error));
    }
}
