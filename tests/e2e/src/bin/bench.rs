//! The benchmark as a program: runs what `e2e::bench` measures, in turn, and prints the medians.

use std::path::PathBuf;

use clap::{Parser, ValueEnum, builder::BoolishValueParser};
use e2e::{
    Result,
    bench::{
        Bench, bridge,
        end_to_end::{self, percentile},
        load::fill_topic,
        processor::{self, TOPIC},
        store::rows_file,
    },
};
use snafu::{ResultExt, Whatever};

/// Measures the workers on the local cluster's services. One run at a time, each after the other in turn.
#[derive(Debug, Parser)]
struct Args {
    /// The worker's binary.
    #[arg(long, default_value = "target/release/iotpipeline-worker")]
    worker: PathBuf,
    /// Where logs and files go.
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
    /// What to measure; everything unless some are named.
    #[arg(long, env = "BENCH_ONLY", value_delimiter = ',')]
    only: Vec<Part>,
    /// How many pairs of runs of processor and psql, and how many runs of the bridge.
    #[arg(long, env = "BENCH_PAIRS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// How many messages the processor drains.
    #[arg(long, env = "BENCH_MESSAGES", default_value_t = 1_000_000)]
    messages: u64,
    /// How many messages the bridge drains.
    #[arg(long, env = "BENCH_BRIDGE_MESSAGES", default_value_t = 200_000)]
    bridge_messages: u64,
    /// Messages a second from end to end.
    #[arg(long, env = "BENCH_RATE", default_value_t = 5_000)]
    rate: u64,
    /// How many seconds from end to end.
    #[arg(long, env = "BENCH_SECONDS", default_value_t = 60)]
    seconds: u64,
    /// Whether the table has a natural key (device, time).
    #[arg(long, env = "BENCH_UNIQUE", value_parser = BoolishValueParser::new())]
    unique: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Part {
    Processor,
    Bridge,
    EndToEnd,
}

#[tokio::main]
#[snafu::report]
async fn main() -> Result<(), Whatever> {
    let args = Args::parse();
    let mut bench = Bench::set_up(args.worker.clone(), args.directory.clone(), args.unique).await?;
    let mut results = Vec::new();
    for part in [Part::Processor, Part::Bridge, Part::EndToEnd] {
        if args.only.is_empty() || args.only.contains(&part) {
            results.push(match part {
                Part::Processor => measure_processor(&mut bench, &args).await?,
                Part::Bridge => measure_bridge(&bench, &args).await?,
                Part::EndToEnd => measure_end_to_end(&mut bench, &args).await?,
            });
        }
    }
    bench.store.remove().await?;
    for result in results {
        println!("bench: {result}");
    }
    Ok(())
}

async fn measure_processor(bench: &mut Bench, args: &Args) -> Result<String> {
    let messages = args.messages;
    println!("filling the topic {TOPIC} with {messages} messages");
    fill_topic(&bench.kafka, TOPIC, messages).await?;
    println!("writing the rows for psql, by a run of the processor that does not count");
    processor::drain(bench, messages).await?;
    let file = rows_file(&bench.directory);
    bench.store.copy_to(&file)?;
    let (mut rates, mut ratios, mut per_cpu_second, mut memory) = (vec![], vec![], vec![], vec![]);
    for pair in 1..=args.pairs {
        let drain = processor::drain(bench, messages).await?;
        let copy = processor::copy(bench, messages).await?;
        let rows_per_cpu_second = messages as f64 / drain.usage.cpu_seconds;
        println!(
            "pair {pair} of {}: processor {:.0} rows/s, {rows_per_cpu_second:.0} rows per CPU-second, {:.0} MiB; \
             psql {copy:.0} rows/s",
            args.pairs, drain.rows_per_second, drain.usage.peak_rss_mib
        );
        rates.push(drain.rows_per_second);
        ratios.push(drain.rows_per_second / copy);
        per_cpu_second.push(rows_per_cpu_second);
        memory.push(drain.usage.peak_rss_mib);
    }
    bench.kafka.delete(TOPIC).await?;
    std::fs::remove_file(&file).with_whatever_context(|_| format!("failed to remove {}", file.display()))?;
    Ok(format!(
        "processor rows_per_s={:.0} ratio_to_copy={:.2} rows_per_cpu_s={:.0} rss_mib={:.0}",
        median(rates),
        median(ratios),
        median(per_cpu_second),
        most(&memory)
    ))
}

async fn measure_bridge(bench: &Bench, args: &Args) -> Result<String> {
    let messages = args.bridge_messages;
    let (mut rates, mut per_cpu_second, mut memory) = (vec![], vec![], vec![]);
    for run in 1..=args.pairs {
        let drain = bridge::drain(bench, messages).await?;
        let messages_per_cpu_second = messages as f64 / drain.usage.cpu_seconds;
        println!(
            "run {run} of {}: bridge {:.0} messages/s, {messages_per_cpu_second:.0} messages per CPU-second, {:.0} MiB",
            args.pairs, drain.messages_per_second, drain.usage.peak_rss_mib
        );
        rates.push(drain.messages_per_second);
        per_cpu_second.push(messages_per_cpu_second);
        memory.push(drain.usage.peak_rss_mib);
    }
    Ok(format!(
        "bridge msgs_per_s={:.0} msgs_per_cpu_s={:.0} rss_mib={:.0}",
        median(rates),
        median(per_cpu_second),
        most(&memory)
    ))
}

async fn measure_end_to_end(bench: &mut Bench, args: &Args) -> Result<String> {
    let Args { rate, seconds, .. } = args;
    println!("from end to end: {rate} messages a second for {seconds} seconds");
    let run = end_to_end::run(bench, *rate, *seconds).await?;
    Ok(format!(
        "end_to_end rate={rate} seconds={seconds} p50_ms={:.0} p99_ms={:.0} max_ms={:.0} \
         bridge_cpu_s={:.1} bridge_rss_mib={:.0} processor_cpu_s={:.1} processor_rss_mib={:.0}",
        percentile(&run.latencies, 0.5),
        percentile(&run.latencies, 0.99),
        percentile(&run.latencies, 1.0),
        run.bridge.cpu_seconds,
        run.bridge.peak_rss_mib,
        run.processor.cpu_seconds,
        run.processor.peak_rss_mib,
    ))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Memory must suffice every time.
fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
