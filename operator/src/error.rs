//! Why a reconciliation failed. The name of the variant is the `category` of
//! `iotpipeline_reconcile_failures_total`.

use kube::core::error_boundary::InvalidObject;
use snafu::Snafu;
use strum::{EnumDiscriminants, IntoStaticStr};

use crate::{build, build::ChildKind, compiler, kafka, timescale};

/// Why a reconciliation failed.
#[derive(Debug, EnumDiscriminants, Snafu)]
#[snafu(visibility(pub(crate)))]
#[strum_discriminants(
    derive(IntoStaticStr),
    strum(serialize_all = "snake_case"),
    name(Category),
    vis(pub(crate))
)]
pub enum Error {
    /// The object does not have the shape of an IoTPipeline; the CRD in the cluster may be of another version.
    #[snafu(display("failed to read the object as an IoTPipeline"))]
    ReadPipeline {
        /// What does not fit.
        #[snafu(source(from(InvalidObject, Box::new)))]
        source: Box<InvalidObject>,
    },
    /// A Secret could not be read.
    #[snafu(display("failed to read Secret {name}"))]
    ReadSecret {
        /// The Secret.
        name: String,
        /// What the API server says.
        source: kube::Error,
    },
    /// Existing children could not be read.
    #[snafu(display("failed to read objects of kind {kind}"))]
    ReadChildren {
        /// Their kind.
        kind: ChildKind,
        /// What the API server says.
        source: kube::Error,
    },
    /// The pods could not be listed.
    #[snafu(display("failed to list the pods"))]
    ListPods {
        /// What the API server says.
        source: kube::Error,
    },
    /// The namespace could not be read.
    #[snafu(display("failed to read Namespace {name}"))]
    ReadNamespace {
        /// The namespace.
        name: String,
        /// What the API server says.
        source: kube::Error,
    },
    /// The program could not be judged.
    #[snafu(display("failed to judge the program"))]
    Judge {
        /// Why not.
        source: compiler::Error,
    },
    /// The validation did not end, which is a bug.
    #[snafu(display("failed to validate the spec"))]
    Validate {
        /// How it ended instead.
        source: tokio::task::JoinError,
    },
    /// A child could not be built.
    #[snafu(display("failed to build the objects of the workers"))]
    Build {
        /// Which one, and why.
        source: build::Error,
    },
    /// A child could not be written.
    #[snafu(display("failed to apply {kind} {name}"))]
    ApplyChild {
        /// Its kind.
        kind: ChildKind,
        /// Its name.
        name: String,
        /// What the API server says.
        source: kube::Error,
    },
    /// A child could not be deleted.
    #[snafu(display("failed to delete {kind} {name}"))]
    DeleteChild {
        /// Its kind.
        kind: ChildKind,
        /// Its name.
        name: String,
        /// What the API server says.
        source: kube::Error,
    },
    /// A pod on a node that does not answer could not be removed.
    #[snafu(display("failed to remove pod {name}"))]
    RemovePod {
        /// Its name.
        name: String,
        /// What the API server says.
        source: kube::Error,
    },
    /// The finalizers could not be written.
    #[snafu(display("failed to write the finalizers"))]
    WriteFinalizers {
        /// What the API server says.
        source: kube::Error,
    },
    /// The status could not be written.
    #[snafu(display("failed to write the status"))]
    WriteStatus {
        /// What the API server says.
        source: kube::Error,
    },
    /// Kafka failed. Everything that does not need it was done.
    #[snafu(display("failed to keep the topic"))]
    Kafka {
        /// What Kafka says.
        source: kafka::Error,
    },
    /// The database failed. Everything that does not need it was done.
    #[snafu(display("failed to keep the table"))]
    Database {
        /// What the database says.
        source: timescale::Error,
    },
    /// The task that made an index ended before its time, which is a bug.
    #[snafu(display("failed to make index {index}"))]
    BuildIndex {
        /// The index.
        index: String,
        /// How it ended instead.
        source: tokio::task::JoinError,
    },
    /// What a deleted pipeline leaves could not be cleaned up yet.
    #[snafu(display("failed to clean up: {message}"))]
    CleanUp {
        /// What stands in the way.
        message: String,
    },
}

impl Error {
    /// The label of this failure in metrics and logs.
    pub fn category(&self) -> &'static str {
        Category::from(self).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_category_is_the_variant_in_snake_case() {
        assert_eq!(Error::CleanUp { message: String::new() }.category(), "clean_up");
    }
}
