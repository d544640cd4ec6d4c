//! The measurement of many pipelines as a program: prints a line for each figure, and all of them in the last one.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use e2e::many::{Figures, Settings, measure};
use snafu::Report;

/// Measures what many pipelines take of one operator, with a control plane of its own whose nodes and pods are simulated.
/// Run it by `scripts/many`.
#[derive(Debug, Parser)]
struct Args {
    /// How many pipelines.
    #[arg(long, env = "MANY_PIPELINES", default_value_t = 1000)]
    pipelines: usize,
    /// How many seconds the operator is watched at rest.
    #[arg(long, env = "MANY_REST", default_value_t = 120)]
    rest: u64,
    /// How often Kafka and the database are compared with the spec, seconds.
    #[arg(long, env = "MANY_RESYNC", default_value_t = 60)]
    resync: u64,
    /// The operator's binary.
    #[arg(long, default_value = "target/release/iotpipeline-operator")]
    operator: PathBuf,
    /// Where Kubernetes' binaries are.
    #[arg(long)]
    kubernetes: PathBuf,
    /// Where etcd's binary is.
    #[arg(long)]
    etcd: PathBuf,
    /// Where kwok's binary is.
    #[arg(long)]
    kwok: PathBuf,
    /// Where logs and files go.
    #[arg(long, default_value = "target/many")]
    directory: PathBuf,
    /// Kafka, `host:port`.
    #[arg(long, env = "IOTPIPELINE_TEST_KAFKA", default_value = "kafka.kafka:9092")]
    kafka: String,
    /// The server of TimescaleDB: a superuser's URI.
    #[arg(long, env = "IOTPIPELINE_TEST_TIMESCALE")]
    timescale: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let pipelines = args.pipelines;
    let settings = Settings {
        pipelines,
        rest: Duration::from_secs(args.rest),
        resync: Duration::from_secs(args.resync),
        operator: args.operator,
        kubernetes: args.kubernetes,
        etcd: args.etcd,
        kwok: args.kwok,
        directory: args.directory,
        kafka: args.kafka,
        timescale: args.timescale,
    };
    match measure(&settings).await {
        Ok(figures) => {
            println!("{}", tell(pipelines, &figures));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", Report::from_error(error));
            ExitCode::FAILURE
        }
    }
}

fn tell(pipelines: usize, figures: &Figures) -> String {
    let Figures {
        applied,
        ready,
        peak_rss_mib,
        rss_mib,
        cpu_at_rest,
        idle_reads,
        idle_writes,
        edit_calls,
        edit,
        drift,
        restart,
    } = figures;
    format!(
        "many: pipelines={pipelines} applied_s={:.1} ready_{pipelines}_s={:.1} operator_rss_mib={rss_mib:.0} \
         operator_peak_rss_mib={peak_rss_mib:.0} cpu_at_rest={cpu_at_rest:.3} idle_reads_per_s={idle_reads:.1} \
         idle_writes={idle_writes} edit_calls={edit_calls} edit_s={:.1} drift_s={:.1} restart_s={:.1}",
        applied.as_secs_f64(),
        ready.as_secs_f64(),
        edit.as_secs_f64(),
        drift.as_secs_f64(),
        restart.as_secs_f64(),
    )
}
