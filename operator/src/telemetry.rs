//! Logs as JSON on standard output, metrics, and the HTTP endpoint that answers for them.

pub mod http;
pub mod metrics;

use std::{env, error::Error};

use tracing::Level;
use tracing_subscriber::{
    Layer, filter::Targets, fmt, layer::SubscriberExt, registry, util::SubscriberInitExt,
};

/// Writes logs as JSON lines to standard output; `RUST_LOG` sets the level, `info` without it.
pub fn start_logging() {
    let levels = env::var("RUST_LOG").ok().and_then(|levels| levels.parse().ok());
    let levels = levels.unwrap_or_else(|| Targets::new().with_default(Level::INFO));
    // A second call (two operators in one test process) finds a subscriber in place, which is as good.
    let lines = fmt::layer().json().flatten_event(true).with_span_list(false);
    let _ = registry().with(lines.with_filter(levels)).try_init();
}

/// An error and everything that caused it, in one line. A cause that its effect already quotes is not repeated.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use snafu::Snafu;

    use super::*;

    #[derive(Debug, Snafu)]
    #[snafu(display("failed to open the door"))]
    struct Outer {
        source: std::io::Error,
    }

    #[test]
    fn a_chain_names_every_cause() {
        let outer = Outer { source: std::io::Error::other("no key") };
        assert_eq!(chain(&outer), "failed to open the door: no key");
    }
}
