//! What a user may rely on, each promise tried on a real cluster. Run inside `tests/e2e/cluster/run`, with the
//! operator installed by `tests/e2e/install`.

mod adoption;
mod approval;
mod autoscaling;
mod availability;
mod bad_input;
mod bad_specs;
mod bridges;
mod changes;
mod children;
mod crashes;
mod dead_letters;
mod delivery;
mod drift;
mod drift_policies;
mod external;
mod indexes;
mod lifecycle;
mod nodes;
mod observing;
mod rollups;
mod secrets;
mod secured;
mod sessions;
mod spool;
mod suspension;
mod upgrades;
