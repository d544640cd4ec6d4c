//! Programs are judged in a process of their own.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::time::Duration;

use crds::{IoTPipeline, IoTPipelineSpec};
use operator::compiler::{Compiler, Source, Verdict};
use serde_json::Value;

const COMPILER: &str = env!("CARGO_BIN_EXE_iotpipeline-compiler");

fn spec(program: &str) -> IoTPipelineSpec {
    let quickstart = include_str!("../../config/samples/quickstart.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(quickstart).unwrap();
    let pipeline = documents.into_iter().find(|document| document["kind"] == "IoTPipeline").unwrap();
    let mut pipeline: IoTPipeline = serde_json::from_value(pipeline).unwrap();
    pipeline.spec.processing.program = Some(program.to_owned());
    pipeline.spec
}

async fn judge(executable: &str, spec: &IoTPipelineSpec) -> Result<Verdict, String> {
    let source = Source::of(spec).unwrap();
    let compiler = Compiler::new(executable, Duration::from_secs(60));
    compiler.judge(source).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn another_process_comes_to_the_verdict_of_this_one() {
    let long = ".x = 1 # ü\n".repeat(20_000);
    for program in
        [".device = split(%topic, \"/\")[1]", ".x = no_such_function()", ". = nonsense(", "", &long]
    {
        for has_bridge in [true, false] {
            let mut spec = spec(program);
            spec.mqtt = spec.mqtt.filter(|_| has_bridge);
            assert_eq!(judge(COMPILER, &spec).await, Ok(Source::of(&spec).unwrap().judge()), "{program:.40}");
        }
    }
}

#[tokio::test]
async fn who_writes_the_topic_decides_too() {
    let mut spec = spec(".device = split(%topic, \"/\")[1]");
    let with_bridge = judge(COMPILER, &spec).await.unwrap();
    assert_eq!(with_bridge, Verdict { problem: None, is_final: true });
    spec.mqtt = None;
    let without = judge(COMPILER, &spec).await.unwrap();
    assert!(without.problem.unwrap().contains("error"), "it says what");
}

/// A program in the place of the compiler.
fn other(name: &str) -> String {
    format!("{}/tests/compilers/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
async fn what_a_program_does_to_the_compiler_is_said_to_its_author() {
    let verdict = judge(&other("crashes"), &spec(".x = 1")).await.unwrap();
    let problem = verdict.problem.unwrap();
    assert!(problem.starts_with("the compiler failed on this program: signal: 11"), "{problem}");
    assert!(!verdict.is_final, "it is tried again");

    let compiler = Compiler::new(other("goes-on"), Duration::from_millis(200));
    let verdict = compiler.judge(Source::of(&spec(".x = 1")).unwrap()).await.unwrap();
    assert!(verdict.problem.unwrap().contains("it did not end within"));
}

#[tokio::test]
async fn what_others_do_to_the_compiler_is_no_verdict() {
    let error = judge(&other("is-killed"), &spec(".x = 1")).await.unwrap_err();
    assert!(error.contains("(signal: 9"), "{error}");
    let error = judge(&other("is-another"), &spec(".x = 1")).await.unwrap_err();
    assert!(error.ends_with("(exit status: 2): unexpected argument"), "{error}");
}

#[tokio::test]
async fn a_program_with_thousands_of_errors_gets_a_short_answer() {
    let verdict = judge(COMPILER, &spec(&"x();".repeat(4_000))).await.unwrap();
    let problem = verdict.problem.unwrap();
    assert!(problem.starts_with("error"), "{problem:.200}");
    assert!(problem.len() < 10_000 && problem.ends_with(" more"), "{} bytes", problem.len());
}

#[tokio::test]
async fn without_a_compiler_nothing_is_said_of_a_program() {
    let error = judge("/no/such/compiler", &spec(".x = 1")).await.unwrap_err();
    assert_eq!(error, "failed to run the compiler /no/such/compiler");
}
