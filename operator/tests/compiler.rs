//! Programs are judged in a process of their own.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use crds::{IoTPipeline, IoTPipelineSpec};
use operator::compiler::{Compiler, Source, Verdict};
use serde_json::Value;

const OPERATOR: &str = env!("CARGO_BIN_EXE_iotpipeline-operator");

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
    Compiler::new(executable).judge(source).await.map_err(|error| error.to_string())
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
            assert_eq!(judge(OPERATOR, &spec).await, Ok(Source::of(&spec).unwrap().judge()), "{program:.40}");
        }
    }
}

#[tokio::test]
async fn who_writes_the_topic_decides_too() {
    let mut spec = spec(".device = split(%topic, \"/\")[1]");
    let with_bridge = judge(OPERATOR, &spec).await.unwrap();
    assert_eq!(with_bridge, Verdict { problem: None, is_final: true });
    spec.mqtt = None;
    let without = judge(OPERATOR, &spec).await.unwrap();
    assert!(without.problem.unwrap().contains("error"), "it says what");
}

#[tokio::test]
async fn a_compiler_that_ends_early_has_judged_nothing() {
    let verdict = judge("/bin/false", &spec(".x = 1")).await.unwrap();
    let problem = "the compiler failed on this program: exit status: 1".to_owned();
    assert_eq!(verdict, Verdict { problem: Some(problem), is_final: false });
}

#[tokio::test]
async fn without_a_compiler_nothing_is_said_of_a_program() {
    let error = judge("/no/such/compiler", &spec(".x = 1")).await.unwrap_err();
    assert_eq!(error, "failed to run the compiler /no/such/compiler");
}
