//! Logs as JSON on standard output, metrics, and the HTTP endpoint that answers for them.

pub mod http;
pub mod metrics;

use std::error::Error;

use tracing_subscriber::EnvFilter;

/// Writes logs as JSON lines to standard output; `RUST_LOG` sets the level, `info` without it.
pub fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // A second call (two operators in one test process) finds a subscriber in place, which is as good.
    let _ = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_env_filter(filter)
        .try_init();
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
