//! For how much of the time a thread waits for an answer: whether more of its kind would only wait too.
//!
//! What the thread computes meanwhile is no wait, nor is the time in which it would compute and is given no processor: a
//! pod with little of one is long at everything. Linux counts both for each thread; elsewhere the share is not known.

use std::{
    collections::VecDeque,
    fs,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Over how long the share is taken.
const WINDOW: Duration = Duration::from_secs(10);

/// The waits of one thread, for others to ask about.
#[derive(Debug, Default)]
pub struct Waits(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// What the kernel tells of the thread.
    schedule: Option<PathBuf>,
    current: Option<Begun>,
    past: VecDeque<Wait>,
}

#[derive(Clone, Copy, Debug)]
struct Begun {
    at: Instant,
    /// For how long the thread had computed, or been ready to, by then.
    busy: Duration,
}

/// What a thread did from one moment to another.
#[derive(Clone, Copy, Debug)]
struct Wait {
    from: Instant,
    to: Instant,
    waited: Duration,
}

impl Waits {
    /// The thread that calls this asks for something. Answers when the guard goes.
    pub fn begin(&self) -> Waiting<'_> {
        let mut state = self.lock();
        let thread = fs::read_link("/proc/thread-self").map(|thread| PathBuf::from("/proc").join(thread));
        state.schedule = thread.ok().map(|thread| thread.join("schedstat"));
        state.current = state.busy().map(|busy| Begun { at: Instant::now(), busy });
        Waiting(self)
    }

    /// The share of the last ten seconds that was waited, percent; `None` where the kernel does not tell, and where nothing
    /// was ever asked for.
    pub fn percent(&self) -> Option<u8> {
        let state = self.lock();
        let now = Instant::now();
        state.schedule.as_ref()?;
        let current = state.current_wait(now);
        if state.current.is_some() && current.is_none() {
            return None;
        }
        Some(percent(state.past.iter().copied().chain(current), now))
    }

    fn end(&self) {
        let mut state = self.lock();
        let now = Instant::now();
        let wait = state.current_wait(now);
        state.current = None;
        state.past.extend(wait);
        while state.past.front().is_some_and(|wait| now.duration_since(wait.to) > WINDOW) {
            state.past.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something was asked for and is not answered.
#[derive(Debug)]
pub struct Waiting<'a>(&'a Waits);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl State {
    fn current_wait(&self, now: Instant) -> Option<Wait> {
        let Begun { at, busy } = self.current?;
        let computed = self.busy()?.saturating_sub(busy);
        Some(Wait { from: at, to: now, waited: now.duration_since(at).saturating_sub(computed) })
    }

    fn busy(&self) -> Option<Duration> {
        busy(&fs::read_to_string(self.schedule.as_ref()?).ok()?)
    }
}

/// For how long a thread has computed, or been ready to, by `/proc/…/schedstat`: nanoseconds on a processor, nanoseconds
/// waiting for one, and how often.
fn busy(schedule: &str) -> Option<Duration> {
    let mut numbers = schedule.split_whitespace().map(str::parse::<u64>);
    let (computing, ready) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    // Kernels that do not count say nothing but zeros.
    (computing > 0).then(|| Duration::from_nanos(computing.saturating_add(ready)))
}

/// The share of the window before `now`, in which a wait counts as far as it lies in it.
fn percent(waits: impl Iterator<Item = Wait>, now: Instant) -> u8 {
    let within = |wait: Wait| {
        let whole = wait.to.duration_since(wait.from).as_secs_f64();
        let since_its_end = now.saturating_duration_since(wait.to);
        let inside = whole.min(WINDOW.saturating_sub(since_its_end).as_secs_f64());
        if whole > 0.0 { wait.waited.as_secs_f64() * inside / whole } else { 0.0 }
    };
    let share = waits.map(within).sum::<f64>() / WINDOW.as_secs_f64();
    (share * 100.0).round().clamp(0.0, 100.0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_counts_as_far_as_it_lies_in_the_window() {
        let now = Instant::now() + Duration::from_secs(100);
        let at = |seconds_ago: u64| now - Duration::from_secs(seconds_ago);
        let wait =
            |from, to, waited| Wait { from: at(from), to: at(to), waited: Duration::from_secs(waited) };
        let percent = |waits: &[Wait]| percent(waits.iter().copied(), now);
        assert_eq!(percent(&[]), 0);
        assert_eq!(percent(&[wait(8, 6, 2), wait(5, 2, 1)]), 30);
        assert_eq!(percent(&[wait(15, 5, 10)]), 50, "half of it is long ago");
        assert_eq!(percent(&[wait(30, 0, 30)]), 100);
        assert_eq!(percent(&[wait(30, 11, 19)]), 0);
    }

    #[test]
    fn the_kernel_counts_what_is_no_wait() {
        assert_eq!(busy("93487 172428 3\n"), Some(Duration::from_nanos(265_915)));
        assert_eq!(busy("0 0 0\n"), None, "a kernel that does not count");
        assert_eq!(busy(""), None);
    }

    #[test]
    fn what_is_not_answered_yet_counts_but_for_what_was_computed() {
        let schedule = std::env::temp_dir().join(format!("schedstat-{}", std::process::id()));
        fs::write(&schedule, "2000000000 1500000000 7\n").unwrap();
        let now = Instant::now() + Duration::from_secs(100);
        let begun = Begun { at: now - Duration::from_secs(6), busy: Duration::from_secs(1) };
        let mut state =
            State { schedule: Some(schedule.clone()), current: Some(begun), past: VecDeque::new() };
        let wait = state.current_wait(now).unwrap();
        assert_eq!(wait.waited, Duration::from_millis(3_500), "2.5 of 6 s were none");
        fs::remove_file(schedule).unwrap();
        assert!(state.current_wait(now).is_none(), "the kernel does not tell");
        state.current = None;
        assert!(state.current_wait(now).is_none());
    }

    #[test]
    fn nothing_is_known_before_something_was_asked_for() {
        let waits = Waits::default();
        assert_eq!(waits.percent(), None);
        drop(waits.begin());
        assert!(
            waits.percent().is_some_and(|percent| percent < 50),
            "this kernel tells: {:?}",
            waits.percent()
        );
    }
}
