//! The difference between a topic as it is and as it shall be. Pure.

use crds::worker::PipelineId;

use super::{ObservedTopic, TopicPlan};
use crate::{change::Refusal, pipeline::Topic};

/// What to do so that `wanted` holds. `marker` is the pipeline that created the topic, as the database knows it.
pub fn plan(
    wanted: &Topic,
    pipeline: &PipelineId,
    observed: &ObservedTopic,
    marker: Option<&PipelineId>,
) -> TopicPlan {
    let _ = (wanted, pipeline, observed, marker);
    TopicPlan::default()
}

/// Whether the topic may be deleted with the pipeline: only if this pipeline created it.
pub fn plan_deletion(
    wanted: &Topic,
    pipeline: &PipelineId,
    marker: Option<&PipelineId>,
) -> Result<(), Refusal> {
    let _ = (wanted, pipeline, marker);
    Ok(())
}
