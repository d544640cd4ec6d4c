//! The proof of scaling as a program: what `e2e::scale` does, part after part, and one line of figures at the end.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use e2e::{
    Result,
    scale::{Figures, bridges, hpa, step},
};
use snafu::Report;

/// Changes the load of pipelines on the local cluster and looks how the operator follows. Fails where anything is lost or
/// duplicated, or a pipeline is not scaled.
#[derive(Debug, Parser)]
struct Args {
    /// What to prove.
    #[arg(long, env = "SCALE_ONLY", value_delimiter = ',', default_value = "step,bridges")]
    only: Vec<Part>,
    #[command(flatten)]
    step: Step,
    #[command(flatten)]
    hpa: Hpa,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Part {
    /// Processors follow a step of the load, up and down.
    Step,
    /// Bridges come and leave.
    Bridges,
    /// A HorizontalPodAutoscaler scales the processors, for as long as `--hpa-minutes` says.
    Hpa,
}

#[derive(Debug, clap::Args)]
struct Step {
    /// Messages a second before and after the step.
    #[arg(long, env = "SCALE_LOW", default_value_t = 1_000.0)]
    low: f64,
    /// Messages a second during the step.
    #[arg(long, env = "SCALE_HIGH", default_value_t = 20_000.0)]
    high: f64,
    /// How many seconds of that; it takes longer where the machine does not keep up.
    #[arg(long, env = "SCALE_SECONDS", default_value_t = 60)]
    seconds: u64,
    /// Devices that publish, before and after, and as many more during the step.
    #[arg(long, env = "SCALE_DEVICES", default_value_t = 200)]
    devices: usize,
    /// The limit of each processor's CPU, so that one of them is too slow for the step.
    #[arg(long, env = "SCALE_CPU", default_value = "60m")]
    cpu: String,
    /// Partitions of the topic.
    #[arg(long, env = "SCALE_PARTITIONS", default_value_t = 12, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
}

#[derive(Debug, clap::Args)]
struct Hpa {
    /// How many minutes a HorizontalPodAutoscaler scales.
    #[arg(long, env = "SCALE_HPA_MINUTES", default_value_t = 30)]
    hpa_minutes: u64,
    /// Messages a second for four minutes of five.
    #[arg(long, env = "SCALE_HPA_LOW", default_value_t = 500.0)]
    hpa_low: f64,
    /// Messages a second for one of five.
    #[arg(long, env = "SCALE_HPA_HIGH", default_value_t = 3_000.0)]
    hpa_high: f64,
    /// The limit of each processor's CPU, so that one of them is too slow for that.
    #[arg(long, env = "SCALE_HPA_CPU", default_value = "15m")]
    hpa_cpu: String,
    /// How many messages may wait for each processor before there is one more.
    #[arg(long, env = "SCALE_HPA_THRESHOLD", default_value_t = 20_000)]
    hpa_threshold: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let mut figures = Figures::default();
    for part in &args.only {
        match run(*part, &args).await {
            Ok(of_part) => figures.add(of_part),
            Err(error) => {
                eprintln!("{}", Report::from_error(error));
                return ExitCode::FAILURE;
            }
        }
    }
    println!("scale: {figures}");
    if figures.lost + figures.duplicated == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(part: Part, args: &Args) -> Result<Figures> {
    let Step { low, high, seconds, devices, partitions, .. } = args.step;
    match part {
        Part::Step => {
            let cpu = args.step.cpu.clone();
            step::run(&step::Options { low, high, seconds, devices, cpu, partitions }).await
        }
        Part::Bridges => bridges::run().await,
        Part::Hpa => {
            let Hpa { hpa_minutes, hpa_low, hpa_high, ref hpa_cpu, hpa_threshold } = args.hpa;
            let options = hpa::Options {
                minutes: hpa_minutes,
                low: hpa_low,
                high: hpa_high,
                devices,
                cpu: hpa_cpu.clone(),
                partitions,
                threshold: hpa_threshold,
            };
            hpa::run(&options).await
        }
    }
}
