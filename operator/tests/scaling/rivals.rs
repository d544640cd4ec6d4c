//! What others document to do, written anew from their documents, each in its own settings where it has them and with the
//! same aim: a lag is to be drained in `target_drain`, by replicas whose rate somebody has measured.

use std::collections::VecDeque;

use operator::scale::policy::Reading;

use crate::world::{Scaler, Scenario};

fn lag(reading: &Reading) -> f64 {
    reading.partitions.values().map(|partition| (partition.end - partition.position) as f64).sum()
}

/// KEDA's Kafka scaler with the HorizontalPodAutoscaler that it drives.
///
/// The scaler gives the lag of the consumer group as a metric with `lagThreshold` as its average for each replica, at most
/// one replica for each partition (keda.sh/docs/latest/scalers/apache-kafka). From no replica to one and back KEDA acts
/// itself, every `pollingInterval` (30 s) and after `cooldownPeriod` (300 s; keda.sh/docs/latest/reference/scaledobject-spec).
/// Between, the HPA asks every 15 s, leaves everything as it is within 10 % of the target, adds the larger of 4 pods and 100 % each 15 s
/// and goes down to the highest that was recommended in 300 s (kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale).
pub struct Keda {
    threshold: f64,
    min: i32,
    max: i32,
    replicas: i32,
    recommended: VecDeque<(u64, i32)>,
    active_at: u64,
}

impl Keda {
    /// `lagThreshold` is what one replica drains within `target_drain`.
    pub fn new(scenario: &Scenario) -> Self {
        Self {
            threshold: scenario.replica_rate * scenario.settings.target_drain.as_secs_f64(),
            min: scenario.settings.min,
            max: scenario.settings.max.min(scenario.partitions as i32),
            replicas: scenario.replicas,
            recommended: VecDeque::new(),
            active_at: 0,
        }
    }
}

impl Scaler for Keda {
    fn decide(&mut self, second: u64, reading: &Reading) -> i32 {
        let lag = lag(reading);
        if second.is_multiple_of(30) {
            if lag > 0.0 {
                self.active_at = second;
                self.replicas = self.replicas.max(1);
            } else if self.min == 0 && second - self.active_at >= 300 {
                self.replicas = 0;
            }
        }
        if !second.is_multiple_of(15) || self.replicas == 0 {
            return self.replicas;
        }
        let usage = lag / self.threshold / f64::from(self.replicas);
        let wanted = if (usage - 1.0).abs() <= 0.1 {
            self.replicas
        } else {
            ((lag / self.threshold).ceil() as i32).clamp(self.min.max(1), self.max)
        };
        self.recommended.push_back((second, wanted));
        self.recommended.retain(|(at, _)| second - at <= 300);
        let highest = self.recommended.iter().map(|(_, wanted)| *wanted).max().unwrap_or(wanted);
        let fastest = self.replicas + self.replicas.max(4);
        self.replicas = if wanted > self.replicas { wanted.min(fastest) } else { highest.min(self.replicas) };
        self.replicas
    }
}

/// Numaflow's own autoscaling of a source vertex.
///
/// `replicas × pending / (targetProcessingSeconds × rate)`, rounded, with averages over `lookbackSeconds` (120), at most two
/// replicas at a time and 90 s between two changes; none where nothing is pending and nothing is processed, and one again
/// to look after 120 s (numaflow.numaproj.io/user-guide/reference/autoscaling, and numaproj/numaflow,
/// pkg/reconciler/vertex/scaling). Its period is 5 s here; `targetProcessingSeconds` is `target_drain`.
pub struct Numaflow {
    target: f64,
    min: i32,
    max: i32,
    replicas: i32,
    changed_at: u64,
    readings: VecDeque<(f64, f64)>,
}

impl Numaflow {
    pub fn new(scenario: &Scenario) -> Self {
        Self {
            target: scenario.settings.target_drain.as_secs_f64(),
            min: scenario.settings.min,
            max: scenario.settings.max,
            replicas: scenario.replicas,
            changed_at: 0,
            readings: VecDeque::new(),
        }
    }
}

impl Scaler for Numaflow {
    fn decide(&mut self, second: u64, reading: &Reading) -> i32 {
        let position = reading.partitions.values().map(|partition| partition.position as f64).sum();
        self.readings.push_back((lag(reading), position));
        if self.readings.len() > 121 {
            self.readings.pop_front();
        }
        let since = second - self.changed_at;
        if !second.is_multiple_of(5) || reading.ready != self.replicas {
            return self.replicas;
        }
        if self.replicas == 0 {
            if since >= 120 {
                (self.replicas, self.changed_at) = (1, second);
            }
            return self.replicas;
        }
        if since < 90 {
            return self.replicas;
        }
        let pending = self.readings.iter().map(|(lag, _)| lag).sum::<f64>() / self.readings.len() as f64;
        let first = self.readings.front().map_or(0.0, |(_, position)| *position);
        let rate = (position - first) / (self.readings.len().max(2) - 1) as f64;
        let wanted = if pending < 1.0 && rate <= 0.0 {
            0
        } else if pending < 1.0 || rate <= 0.0 {
            1
        } else {
            ((pending / rate / self.target * f64::from(self.replicas)).round() as i32).max(1)
        };
        let wanted = wanted.clamp(self.min, self.max).clamp(self.replicas - 2, self.replicas + 2);
        if wanted != self.replicas {
            (self.replicas, self.changed_at) = (wanted, second);
        }
        self.replicas
    }
}
