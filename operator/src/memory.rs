//! What the operator remembers of each pipeline from one reconciliation to the next. All of it can be lost: then
//! something is looked at once more, or a wait begins anew. No I/O.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hasher, RandomState},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crds::status::LagStatus;
use jiff::Timestamp;
use kube::ResourceExt;

use crate::{change::Note, compiler::Verdict, kafka::TopicKey};

const SHORTEST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

/// Namespace and name of a pipeline.
pub type PipelineKey = (String, String);

/// The namespace and name of this pipeline.
pub fn key_of(pipeline: &impl ResourceExt) -> PipelineKey {
    (pipeline.namespace().unwrap_or_default(), pipeline.name_any())
}

/// What is remembered, by pipeline.
#[derive(Debug, Default)]
pub struct Memory(Mutex<HashMap<PipelineKey, Remembered>>);

/// What is remembered of one pipeline.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// How many reconciliations have failed in a row.
    pub failures: u32,
    /// When it is looked at again although nothing happens, and of which generation of the spec.
    pub rests_until: Option<(Instant, i64)>,
    /// What the compiler said of the last program that it had, and of which, by its fingerprint.
    pub verdict: Option<(u64, Verdict)>,
    /// The lag when it was read last.
    pub lag: Option<(Instant, LagStatus)>,
    /// When chunks were measured last, of which generation of the spec, and what was to say of them.
    pub chunk_advice: Option<(Instant, i64, Option<Note>)>,
    /// When expired chunks were last dropped (Apache-2 edition), by the hypertable's name.
    pub chunks_dropped_at: BTreeMap<String, Timestamp>,
    /// When an attempt to change the table was contradicted by its rows, and of which generation of the spec.
    pub contradicted: Option<(Instant, i64)>,
    /// Whose lock an index waits for.
    pub locked: Option<Locked>,
    /// Since when bridges come, leave or make room for others.
    pub bridges_changing_since: Option<Instant>,
    /// Since when the bridge of a deleted pipeline is told to retire.
    pub retiring_since: Option<Instant>,
    /// Since when it runs with that.
    pub draining_since: Option<Instant>,
    /// Whether the MQTT session of a deleted pipeline is ended, or given up.
    pub session_is_over: bool,
    /// Whether it is known which topic it manages, if any.
    pub topic_is_known: bool,
    /// The topic that it manages, once it has marked it as its own.
    pub topic: Option<TopicKey>,
    /// Since when the clean-up after a deleted pipeline has failed.
    pub cleanup_failing_since: Option<Instant>,
}

/// An index that could not be made because somebody held a lock. Each attempt queues for it, and others queue behind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Locked {
    /// How many attempts have come to nothing in a row.
    times: u32,
    /// When to try again.
    until: Instant,
    /// Of which generation of the spec.
    generation: i64,
}

impl Memory {
    /// What is remembered of a pipeline.
    pub fn recall(&self, key: &PipelineKey) -> Remembered {
        self.lock().get(key).cloned().unwrap_or_default()
    }

    /// Changes what is remembered of a pipeline and returns what `change` returns.
    pub fn update<T>(&self, key: &PipelineKey, change: impl FnOnce(&mut Remembered) -> T) -> T {
        change(self.lock().entry(key.clone()).or_default())
    }

    /// What the compiler said of this program, be it of whichever pipeline.
    pub fn verdict_on(&self, program: u64) -> Option<Verdict> {
        let pipelines = self.lock();
        let mut verdicts = pipelines.values().filter_map(|remembered| remembered.verdict.as_ref());
        verdicts.find(|(judged, _)| *judged == program).map(|(_, verdict)| verdict.clone())
    }

    /// Notes that a pipeline manages a topic, unless another one is known to: then that is the answer. Markers of two
    /// pipelines can be in two databases, and only here are they seen together.
    pub fn claim_topic(&self, key: &PipelineKey, topic: &TopicKey) -> Option<PipelineKey> {
        let mut pipelines = self.lock();
        let manager = other_manager(&pipelines, key, topic);
        if manager.is_none() {
            pipelines.entry(key.clone()).or_default().topic = Some(topic.clone());
        }
        manager
    }

    /// Notes that a pipeline manages no topic, or none that it has marked. Answers which other one manages this one.
    pub fn disclaim_topic(&self, key: &PipelineKey, topic: &TopicKey) -> Option<PipelineKey> {
        let mut pipelines = self.lock();
        pipelines.entry(key.clone()).or_default().topic = None;
        other_manager(&pipelines, key, topic)
    }

    /// Which other pipeline manages a topic, for one that has no say in it.
    pub fn other_manager(&self, key: &PipelineKey, topic: &TopicKey) -> Option<PipelineKey> {
        other_manager(&self.lock(), key, topic)
    }

    /// Forgets a pipeline that is gone.
    pub fn forget(&self, key: &PipelineKey) {
        self.lock().remove(key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PipelineKey, Remembered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Locked {
    /// After one more attempt at `now` that came to nothing.
    pub fn again(before: Option<Self>, generation: i64, now: Instant) -> Self {
        let times =
            before.filter(|before| before.generation == generation).map_or(0, |before| before.times) + 1;
        // Half a minute, a minute … 5 min.
        Self { times, until: now + backoff(times + 5), generation }
    }

    /// Whether it is too early for another attempt.
    pub fn holds(self, generation: i64, now: Instant) -> bool {
        self.generation == generation && now < self.until
    }
}

fn other_manager(
    pipelines: &HashMap<PipelineKey, Remembered>,
    key: &PipelineKey,
    topic: &TopicKey,
) -> Option<PipelineKey> {
    let is_it = |(other, remembered): &(&PipelineKey, &Remembered)| {
        *other != key && remembered.topic.as_ref() == Some(topic)
    };
    pipelines.iter().find(is_it).map(|(other, _)| other.clone())
}

/// How long to wait after so many failures in a row: 1 s, 2 s, 4 s … 5 min, give or take a fifth.
pub fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    spread((SHORTEST_BACKOFF * 2_u32.pow(doublings)).min(LONGEST_BACKOFF), random_fraction())
}

/// A wait of about so long, so that many pipelines do not ask all at once.
pub fn about(duration: Duration) -> Duration {
    spread(duration, random_fraction())
}

/// A fifth more or less, as `fraction` of 0 to 1 says.
fn spread(duration: Duration, fraction: f64) -> Duration {
    duration.mul_f64(0.8 + 0.4 * fraction)
}

/// A number from 0 to 1 that is different each time; the standard library seeds its hashers at random.
fn random_fraction() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from((random >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_five_minutes() {
        let seconds = |failures| backoff(failures).as_secs_f64();
        for (failures, expected) in
            [(0, 1.0), (1, 1.0), (2, 2.0), (5, 16.0), (9, 256.0), (10, 300.0), (1000, 300.0)]
        {
            let actual = seconds(failures);
            assert!((expected * 0.8..=expected * 1.2).contains(&actual), "{failures}: {actual}");
        }
    }

    #[test]
    fn whoever_holds_a_lock_is_asked_less_and_less_often_until_the_spec_changes() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let once = Locked::again(None, 7, now);
        assert!(once.holds(7, after(20)) && !once.holds(7, after(40)) && !once.holds(8, now));
        let often = (0..9).fold(once, |before, _| Locked::again(Some(before), 7, now));
        assert!(often.holds(7, after(200)) && !often.holds(7, after(400)));
        assert!(!Locked::again(Some(often), 8, now).holds(8, after(40)), "it begins anew");
    }

    #[test]
    fn waits_are_spread_by_a_fifth() {
        assert_eq!(spread(Duration::from_secs(60), 0.0), Duration::from_secs(48));
        assert_eq!(spread(Duration::from_secs(60), 1.0), Duration::from_secs(72));
        let waits: std::collections::HashSet<_> = (0..20).map(|_| about(Duration::from_secs(60))).collect();
        assert!(waits.len() > 10);
    }

    #[test]
    fn a_topic_has_one_manager_until_it_is_disclaimed_or_gone() {
        let memory = Memory::default();
        let [a, b] = ["a", "b"].map(|name| ("plant-7".to_owned(), name.to_owned()));
        let topic = |name| TopicKey {
            cluster_id: "k1".to_owned(),
            topic: crate::pipeline::TopicName::parse(name).unwrap(),
        };
        assert_eq!(memory.disclaim_topic(&b, &topic("t")), None);
        assert_eq!(memory.claim_topic(&a, &topic("t")), None);
        assert_eq!(memory.claim_topic(&a, &topic("t")), None);
        assert_eq!(memory.claim_topic(&b, &topic("t")), Some(a.clone()));
        assert_eq!(memory.disclaim_topic(&b, &topic("t")), Some(a.clone()));
        assert_eq!(memory.other_manager(&b, &topic("t")), Some(a.clone()));
        assert_eq!(memory.other_manager(&b, &topic("u")), None);
        assert_eq!(memory.claim_topic(&b, &topic("u")), None);
        assert_eq!(memory.disclaim_topic(&a, &topic("u")), Some(b.clone()));
        assert_eq!(memory.claim_topic(&b, &topic("t")), None);
        memory.forget(&b);
        assert_eq!(memory.claim_topic(&a, &topic("t")), None);
    }

    #[test]
    fn a_verdict_on_a_program_holds_for_all_pipelines_that_have_it() {
        let memory = Memory::default();
        let verdict = Verdict { problem: Some("no".to_owned()), is_final: true };
        let key = ("plant-7".to_owned(), "a".to_owned());
        memory.update(&key, |remembered| remembered.verdict = Some((7, verdict.clone())));
        assert_eq!((memory.verdict_on(7), memory.verdict_on(8)), (Some(verdict), None));
        memory.forget(&key);
        assert_eq!(memory.verdict_on(7), None);
    }

    #[test]
    fn pipelines_are_remembered_apart_and_forgotten() {
        let memory = Memory::default();
        let key = |name: &str| ("plant-7".to_owned(), name.to_owned());
        memory.update(&key("a"), |remembered| remembered.failures += 1);
        assert_eq!(memory.recall(&key("a")).failures, 1);
        assert_eq!(memory.recall(&key("b")).failures, 0);
        memory.forget(&key("a"));
        assert_eq!(memory.recall(&key("a")).failures, 0);
    }
}
