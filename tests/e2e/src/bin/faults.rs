//! The proof of delivery as a program: makes each fault happen to a pipeline under load, and prints what came of it.

use std::{process::ExitCode, time::Instant};

use clap::Parser;
use e2e::{
    Result,
    faults::{FAULTS, Fault, Outcome, SHORT, clean_up, run},
};
use snafu::{Report, Whatever, whatever};

/// Lets one thing after the other go wrong on the local cluster, under load, and compares what was published with what
/// is there afterwards. Fails where anything is lost or duplicated, a fault did not happen, or a pipeline did not
/// recover.
#[derive(Debug, Parser)]
struct Args {
    /// The faults to run; all of them unless some are named.
    #[arg(long, env = "FAULTS_ONLY", value_delimiter = ',')]
    only: Vec<String>,
    /// A selection of about six minutes, in which things are held up for a shorter time.
    #[arg(long)]
    short: bool,
    /// Print the names of the faults, and do nothing.
    #[arg(long)]
    list: bool,
}

const HEADINGS: &str =
    "fault | sent | rows | dead | lost | duplicated | recovered in | bridge's memory | processor's memory";

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let chosen = match choose(&args) {
        Ok(chosen) => chosen,
        Err(error) => {
            eprintln!("{}", Report::from_error(error));
            return ExitCode::FAILURE;
        }
    };
    if args.list {
        chosen.iter().for_each(|fault| println!("{}", fault.name));
        return ExitCode::SUCCESS;
    }
    tokio::select! {
        succeeded = run_all(&chosen, args.short) => if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE },
        _ = tokio::signal::ctrl_c() => {
            clean_up();
            ExitCode::FAILURE
        }
    }
}

fn choose(args: &Args) -> Result<Vec<&'static Fault>> {
    let names: Vec<&str> = args.only.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    if let Some(unknown) = names.iter().find(|name| FAULTS.iter().all(|fault| fault.name != **name)) {
        whatever!("there is no fault {unknown}; --list names them all");
    }
    let is_chosen = |fault: &&Fault| {
        if names.is_empty() {
            !args.short || SHORT.contains(&fault.name)
        } else {
            names.contains(&fault.name)
        }
    };
    Ok(FAULTS.iter().filter(is_chosen).collect())
}

/// Whether all of them came to nothing.
async fn run_all(faults: &[&Fault], is_short: bool) -> bool {
    let begun = Instant::now();
    let mut lines = Vec::new();
    let (mut lost, mut duplicated, mut failed) = (0, 0, 0);
    for (index, fault) in faults.iter().enumerate() {
        println!("{:>4}s  {} ({} of {})", begun.elapsed().as_secs(), fault.name, index + 1, faults.len());
        let result = run(fault, is_short).await;
        if let Ok(outcome) = &result {
            lost += outcome.balance.lost;
            duplicated += outcome.balance.duplicated;
        } else {
            failed += 1;
        }
        let line = format!("{} | {}", fault.name, told(&result));
        println!("       {line}");
        lines.push(line);
    }
    println!("\n{HEADINGS}");
    lines.iter().for_each(|line| println!("{line}"));
    if failed > 0 {
        println!("{failed} faults did not happen, or the pipeline did not recover");
    }
    println!("faults: run={} lost={lost} duplicated={duplicated}", faults.len());
    lost + duplicated + failed == 0
}

fn told(result: &Result<Outcome, Whatever>) -> String {
    match result {
        Ok(outcome) => outcome.to_string(),
        Err(error) => format!("FAILED: {}", Report::from_error(error)),
    }
}
