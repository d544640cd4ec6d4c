//! The one signal that asks every part of a worker to stop.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Tells when the worker is asked to stop. Clones see the same request.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Asks the worker to stop.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<bool>);

/// A request to stop that has not been made yet.
pub fn channel() -> (ShutdownTrigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (ShutdownTrigger(sender), Shutdown(receiver))
}

impl Shutdown {
    /// Whether the worker was asked to stop.
    pub fn is_requested(&self) -> bool {
        // A dropped trigger can never ask again: take that for the request, rather than run for ever.
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Returns once the worker was asked to stop.
    pub async fn requested(&mut self) {
        // An error means that the trigger is gone, which counts as the request.
        let _ = self.0.wait_for(|requested| *requested).await;
    }
}

impl ShutdownTrigger {
    /// Asks the worker to stop.
    pub fn request(&self) {
        self.0.send_replace(true);
    }

    /// Asks the worker to stop at the first SIGTERM or SIGINT. Keeps the trigger alive until then.
    pub async fn request_on_signal(self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("Asked to stop");
        self.request();
        // Later signals change nothing: the stop is bounded anyway.
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_reaches_every_clone() {
        let (trigger, mut shutdown) = channel();
        let clone = shutdown.clone();
        assert!(!shutdown.is_requested());
        trigger.request();
        shutdown.requested().await;
        assert!(shutdown.is_requested() && clone.is_requested());
    }

    #[tokio::test]
    async fn a_dropped_trigger_counts_as_a_request() {
        let (trigger, mut shutdown) = channel();
        drop(trigger);
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }
}
