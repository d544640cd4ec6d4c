//! Waiting with a deadline.

use std::time::Duration;

use snafu::{FromString, Report, Whatever};
use tokio::time::{Instant, sleep};

use crate::Result;

const PAUSE: Duration = Duration::from_millis(250);

/// Asks again and again until the answer is `Ok`. An `Err` tells, in words, what is still to come. Where asking
/// itself fails, it is asked again too: a busy server is no verdict.
///
/// # Errors
/// Fails after `deadline` with the last answer.
pub async fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<Result<T, String>>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        let answer = ask().await.unwrap_or_else(|failure| Err(Report::from_error(failure).to_string()));
        match answer {
            Ok(answer) => return Ok(answer),
            Err(still) if Instant::now() > end => {
                let message = format!("gave up after {} s waiting until {what}: {still}", deadline.as_secs());
                return Err(Whatever::without_source(message));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ends_with_the_first_answer_or_with_what_was_missing() {
        let mut asked = 0;
        let answer = eventually(Duration::from_secs(5), "it works", async || {
            asked += 1;
            Ok(if asked < 3 { Err("not yet".to_owned()) } else { Ok(asked) })
        });
        assert_eq!(answer.await.unwrap(), 3);

        let never = eventually(Duration::ZERO, "it works", async || Ok(Err::<(), _>("not yet".to_owned())));
        assert_eq!(never.await.unwrap_err().to_string(), "gave up after 0 s waiting until it works: not yet");
    }
}
