//! Programs: VRL as this project allows it. The operator compiles a program to judge it, the worker to run
//! it; nobody else knows the VRL compiler. Pure: no I/O.

mod clock;
mod functions;
mod limits;
mod metadata;

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use snafu::{ResultExt, Snafu};
pub use vrl::value::Value;
use vrl::{
    compiler::{
        CompileConfig, ExpressionError, TargetValueRef, TimeZone, compile_with_external,
        runtime::{Runtime, Terminate},
        state::ExternalEnv,
    },
    diagnostic::{DiagnosticList, Formatter},
    value::{Kind, Secrets},
};

pub use crate::{
    clock::Shift,
    limits::{
        LimitError, MAX_ARRAY_INDEX, MAX_CALL_LEVELS, MAX_CHAINED_OPERATORS, MAX_CLOSURE_LEVELS,
        MAX_NESTING_LEVELS, MAX_SOURCE_BYTES,
    },
    metadata::{Metadata, TopicWriter},
};
use crate::{
    clock::with_shift,
    functions::allowed_functions,
    limits::check_limits,
    metadata::{UsedMetadata, metadata_kind, metadata_value},
};

/// How many rows one message may become.
pub const MAX_ROWS: usize = 1_000;

/// How many expressions one run may evaluate, so that a loop over a hostile payload ends.
pub const MAX_STEPS: u32 = 1_000_000;

/// The longest text of a failure, bytes; messages of VRL may quote the data.
const MAX_MESSAGE_BYTES: usize = 1_000;

/// How many of the compiler's complaints its author is told; one often brings about the others.
const MAX_DIAGNOSTICS: usize = 5;

/// The longest text of them, bytes: a little less than a condition's message may have, so that how many more there are is told too.
const MAX_DIAGNOSTIC_BYTES: usize = 8_000;

/// How long the compiler may take.
const COMPILER_DEADLINE: Duration = Duration::from_secs(20);

/// The stack on which the compiler runs. It recurses, and its callers' threads may have small ones.
const COMPILER_STACK_BYTES: usize = 32 * 1024 * 1024;

/// Why a program is not accepted. Displays as text for its author, without colours.
#[derive(Debug, Snafu)]
pub enum CompileError {
    /// It is too large or too deep for the compiler.
    #[snafu(display("{source}"))]
    Limits {
        /// Which limit.
        source: LimitError,
    },
    /// The compiler refuses it.
    #[snafu(display("{diagnostic}"))]
    Rejected {
        /// VRL's own text: code, place, hint.
        diagnostic: String,
    },
    /// The thread for the compiler could not be started.
    #[snafu(display("failed to start the compiler"))]
    Start {
        /// Why not.
        source: std::io::Error,
    },
    /// The compiler takes too long.
    #[snafu(display("the program takes more than {} s to compile; simplify it", COMPILER_DEADLINE.as_secs()))]
    TooSlow,
    /// The compiler panicked, which is a bug of VRL.
    #[snafu(display("the compiler failed on this program"))]
    Crashed,
}

/// A compiled program. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Program {
    compiled: Arc<vrl::compiler::Program>,
    used_metadata: UsedMetadata,
    needs_origin: bool,
    timezone: TimeZone,
}

/// What a message became.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// These rows, each an object, at most [`MAX_ROWS`].
    Rows(Vec<Value>),
    /// Nothing, on purpose: the program left `null` or called `abort`.
    Dropped,
    /// The program relies on what a bridge says of a message, and the record has nothing of it.
    WithoutOrigin,
    /// The program failed.
    Failed(String),
    /// An array of this many elements, more than [`MAX_ROWS`].
    TooManyRows(usize),
    /// Something other than an object, or an array with it.
    NotAnObject {
        /// What it is instead, in VRL's words.
        found: &'static str,
    },
}

/// Compiles a program for a topic that `writer` writes.
///
/// # Errors
/// With text for the program's author.
pub fn compile(source: &str, writer: TopicWriter) -> Result<Program, CompileError> {
    check_limits(source).context(LimitsSnafu)?;
    let (sender, receiver) = mpsc::sync_channel(1);
    let owned_source = source.to_owned();
    // A thread of its own, not only for the stack: a compiler that takes too long can be left behind. It still
    // ends by itself, because the limits bound what it has to do.
    thread::Builder::new()
        .name("vrl-compiler".into())
        .stack_size(COMPILER_STACK_BYTES)
        .spawn(move || sender.send(compile_checked(&owned_source, writer)))
        .context(StartSnafu)?;
    match receiver.recv_timeout(COMPILER_DEADLINE) {
        Ok(compiled) => compiled,
        Err(RecvTimeoutError::Timeout) => TooSlowSnafu.fail(),
        Err(RecvTimeoutError::Disconnected) => CrashedSnafu.fail(),
    }
}

fn compile_checked(source: &str, writer: TopicWriter) -> Result<Program, CompileError> {
    let environment = ExternalEnv::new_with_kind(Kind::json().or_timestamp(), metadata_kind(writer));
    let compiled =
        compile_with_external(source, &allowed_functions(), &environment, CompileConfig::default())
            .map_err(|diagnostics| rejected(source, diagnostics))?
            .program;
    let info = compiled.info();
    let used_metadata = UsedMetadata::of(info.target_queries.iter().chain(&info.target_assignments));
    Ok(Program {
        compiled: Arc::new(compiled),
        used_metadata,
        needs_origin: writer == TopicWriter::Bridge && used_metadata.has_origin(),
        timezone: TimeZone::parse("UTC").unwrap_or_default(),
    })
}

/// Each diagnostic quotes its line, which may be the whole program, and there may be one for each few bytes of it.
fn rejected(source: &str, mut diagnostics: DiagnosticList) -> CompileError {
    let more = diagnostics.len().saturating_sub(MAX_DIAGNOSTICS);
    diagnostics.sort_by_key(|one| !one.is_error());
    diagnostics.truncate(MAX_DIAGNOSTICS);
    let text = Formatter::new(source, diagnostics).to_string().trim().to_owned();
    let mut diagnostic = shortened(text, MAX_DIAGNOSTIC_BYTES);
    if more > 0 {
        diagnostic.push_str(&format!("\n\nand {more} more"));
    }
    CompileError::Rejected { diagnostic }
}

impl Program {
    /// Whether the program reads anything of `%`; without it [`Metadata::default`] does.
    pub fn reads_metadata(&self) -> bool {
        self.used_metadata != UsedMetadata::default()
    }

    /// Runs the program on one event.
    pub fn run(&self, mut event: Value, metadata: &Metadata<'_>) -> Outcome {
        // The compiler has promised the program its kinds: without them calls would fail that cannot.
        if self.needs_origin && metadata.topic.is_none() {
            return Outcome::WithoutOrigin;
        }
        let clock = metadata.clock;
        let mut metadata = metadata_value(metadata, self.used_metadata);
        let mut secrets = Secrets::new();
        let mut target = TargetValueRef { value: &mut event, metadata: &mut metadata, secrets: &mut secrets };
        let mut steps = 0_u32;
        let mut limit_steps = || {
            steps += 1;
            if steps > MAX_STEPS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let result = with_shift(clock, || {
            Runtime::default().resolve_with_control(
                &mut target,
                &self.compiled,
                &self.timezone,
                &mut limit_steps,
            )
        });
        match result {
            Ok(_) => rows(event),
            Err(Terminate::Abort(ExpressionError::Abort { .. })) => Outcome::Dropped,
            Err(Terminate::Interrupted) => {
                Outcome::Failed(format!("the program evaluated more than {MAX_STEPS} expressions"))
            }
            Err(Terminate::Abort(error) | Terminate::Error(error)) => {
                Outcome::Failed(shortened(error.to_string(), MAX_MESSAGE_BYTES))
            }
        }
    }
}

/// What an event becomes as it stands: an object one row, an array one row for each element, null none.
pub fn rows(event: Value) -> Outcome {
    let rows = match event {
        Value::Null => return Outcome::Dropped,
        Value::Array(rows) if rows.len() > MAX_ROWS => return Outcome::TooManyRows(rows.len()),
        Value::Array(rows) => rows,
        row => vec![row],
    };
    match rows.iter().find(|row| !row.is_object()) {
        Some(other) => Outcome::NotAnObject { found: kind_name(other) },
        None => Outcome::Rows(rows),
    }
}

/// What a value is, with its article, for messages.
pub fn kind_name(value: &Value) -> &'static str {
    match value {
        Value::Bytes(_) | Value::String(_) => "a string",
        Value::Regex(_) => "a regular expression",
        Value::Integer(_) => "an integer",
        Value::Float(_) => "a float",
        Value::Boolean(_) => "a boolean",
        Value::Timestamp(_) => "a timestamp",
        Value::Object(_) => "an object",
        Value::Array(_) => "an array",
        Value::Null => "null",
    }
}

fn shortened(mut text: String, max_bytes: usize) -> String {
    if text.len() > max_bytes {
        text.truncate(text.floor_char_boundary(max_bytes));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn json(text: &str) -> Value {
        // The parser of VRL itself, so that this crate needs no JSON library.
        match compile(&format!(". = parse_json!(s'{text}')"), TopicWriter::Bridge)
            .unwrap()
            .run(Value::Null, &Metadata::default())
        {
            Outcome::Rows(rows) if rows.len() == 1 => rows[0].clone(),
            other => panic!("{other:?}"),
        }
    }

    fn metadata() -> Metadata<'static> {
        Metadata {
            topic: Some("plants/7/lines/3/telemetry"),
            qos: Some(1),
            retained: Some(false),
            properties: Some(&[("unit", "F")]),
            ingested_at: Some(SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_428_000_123_456)),
            partition: 4,
            offset: 42,
            ..Metadata::default()
        }
    }

    fn run(source: &str, event: &str) -> Outcome {
        compile(source, TopicWriter::Bridge).unwrap().run(json(event), &metadata())
    }

    fn field(outcome: &Outcome, name: &str) -> Value {
        match outcome {
            Outcome::Rows(rows) => rows[0].as_object().unwrap()[name].clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_sample_program_runs() {
        let outcome = run(
            ".line = split(%topic, \"/\")[3]\n\
             .temperature_c = (to_float!(.temp_f) - 32.0) * 5.0 / 9.0\n\
             .processed_at = now()",
            r#"{"temp_f": 212}"#,
        );
        assert_eq!(field(&outcome, "line"), Value::from("3"));
        assert_eq!(field(&outcome, "temperature_c"), Value::from_f64_or_zero(100.0));
        assert!(matches!(field(&outcome, "processed_at"), Value::Timestamp(_)));
    }

    #[test]
    fn metadata_has_the_kinds_that_the_compiler_was_told() {
        let outcome = run(
            ".a = %qos + 1\n.b = !%retained\n.c = upcase(%properties.unit) ?? \"none\"\n\
             .d = format_timestamp!(%ingested_at, \"%s\")\n.e = %partition * 2\n.f = %offset\n.g = %",
            r#"{"x": 1}"#,
        );
        assert_eq!(field(&outcome, "a"), Value::from(2));
        assert_eq!(field(&outcome, "b"), Value::from(true));
        assert_eq!(field(&outcome, "c"), Value::from("F"));
        assert_eq!(field(&outcome, "d"), Value::from("1795428000"));
        assert_eq!(field(&outcome, "e"), Value::from(8));
        assert_eq!(field(&outcome, "f"), Value::from(42));
        assert_eq!(field(&outcome, "g").as_object().unwrap().len(), 7);
    }

    #[test]
    fn what_depends_on_the_delivery_differs_between_deliveries() {
        let fields = |source: &str| {
            let program = compile(source, TopicWriter::Bridge).unwrap();
            let metadata = metadata();
            let [earlier, later] = metadata.other_deliveries();
            [metadata, earlier, later].map(|metadata| field(&program.run(json("{}"), &metadata), "x"))
        };
        for source in [
            ".x = now()",
            ".x = format_timestamp!(now(), \"%Y\")",
            ".x = format_timestamp!(now(), \"%m\")",
            ".x = format_timestamp!(now(), \"%H\")",
            ".x = to_unix_timestamp(now()) - to_unix_timestamp(%ingested_at)",
            ".x = %ingested_at",
            ".x = %offset",
            ".x = %partition",
            ".x = uuid_v4()",
        ] {
            let [here, earlier, later] = fields(source);
            assert!(here != earlier && here != later, "{source}: {here:?} {earlier:?} {later:?}");
        }
        // These take one of a few values, of which at least one other delivery has another.
        for source in [".x = now() > %ingested_at", ".x = %qos", ".x = %retained"] {
            let [here, earlier, later] = fields(source);
            assert!(here != earlier || here != later, "{source}");
        }
        for source in [".x = %topic", ".x = %properties.unit"] {
            let [here, earlier, later] = fields(source);
            assert!(here == earlier && here == later, "{source}");
        }
    }

    #[test]
    fn the_clock_is_right_for_a_delivery_that_is_one() {
        let before = SystemTime::now();
        let Value::Timestamp(told) = field(&run(".x = now()", "{}"), "x") else { panic!() };
        assert!((before..=SystemTime::now()).contains(&told.into()));
    }

    #[test]
    fn an_array_makes_rows_and_null_or_abort_none() {
        let expected = Outcome::Rows(vec![json(r#"{"v":1}"#), json(r#"{"v":2}"#)]);
        assert_eq!(run(". = .list", r#"{"list":[{"v":1},{"v":2}]}"#), expected);
        assert_eq!(run(". = null", r#"{"a":1}"#), Outcome::Dropped);
        assert_eq!(run("if .a == 1 { abort }", r#"{"a":1}"#), Outcome::Dropped);
        assert_eq!(run(". = []", r#"{"a":1}"#), Outcome::Rows(vec![]));
        assert_eq!(run(". = [{}, 3]", r#"{"a":1}"#), Outcome::NotAnObject { found: "an integer" });
        assert_eq!(run(". = \"text\"", r#"{"a":1}"#), Outcome::NotAnObject { found: "a string" });
        assert_eq!(run(". = range!(0, 1001)", r#"{"a":1}"#), Outcome::TooManyRows(1001));
    }

    #[test]
    fn a_runtime_error_is_a_failure_with_its_text() {
        let Outcome::Failed(message) = run(".c = to_float!(.t)", r#"{"t": "warm"}"#) else { panic!() };
        assert!(message.contains("to_float") && message.contains("Invalid float"), "{message}");
    }

    /// VRL takes every division by a literal for infallible, whatever stands left of it.
    #[test]
    fn a_failure_that_the_compiler_does_not_see_is_a_failure_all_the_same() {
        let source = ".c = (to_float(.t) - 32.0) * 5.0 / 9.0";
        let Outcome::Failed(message) = run(source, r#"{"t": "warm"}"#) else { panic!() };
        assert!(message.contains("to_float"), "{message}");
    }

    #[test]
    fn a_loop_that_does_not_end_in_time_is_stopped() {
        let source = "n = 0\nfor_each(array!(.list)) -> |_i, _v| {\n\
            for_each(array!(.list)) -> |_i, _v| { for_each(array!(.list)) -> |_i, _v| { n = n + 1 } }\n}\n.n = n";
        let list = vec!["1"; 200].join(",");
        let Outcome::Failed(message) = run(source, &format!(r#"{{"list":[{list}]}}"#)) else { panic!() };
        assert!(message.contains("1000000 expressions"), "{message}");
    }

    #[test]
    fn a_compile_error_carries_the_diagnostic_of_vrl_without_colours() {
        let text = compile(".a = to_float(.b)", TopicWriter::Bridge).unwrap_err().to_string();
        assert!(text.starts_with("error[E103]: unhandled fallible assignment"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn functions_that_reach_outside_or_expand_do_not_compile() {
        for call in [
            "get_env_var!(\"HOME\")",
            "get_hostname!()",
            "dns_lookup!(\"a\")",
            "reverse_dns!(\"127.0.0.1\")",
            "http_request!(\"http://a\")",
            "log(\"x\")",
            "parse_proto!(\"x\", \"a.desc\", \"m\")",
            "decode_gzip!(\"x\")",
            "decode_zstd!(\"x\")",
            "parse_yaml!(\"x\")",
            "parse_grok!(\"x\", \"%{GREEDYDATA}\")",
            "unflatten({})",
            "set!({}, [\"a\"], 1)",
        ] {
            let error = compile(&format!(".a = {call}"), TopicWriter::Bridge).unwrap_err().to_string();
            assert!(error.contains("undefined function"), "{call}: {error}");
        }
    }

    /// The largest trees that the limits let through compile, run and drop on a thread with the default stack.
    #[test]
    fn the_deepest_allowed_programs_do_not_overflow_a_small_stack() {
        let sources = [
            format!(".a = {}1{}", "(".repeat(64), ")".repeat(64)),
            format!(".a = {}1{}", "[".repeat(64), "]".repeat(64)),
            format!(".a = {}1{}", "{\"a\":".repeat(64), "}".repeat(64)),
            format!(".a = 1{}", " + 1".repeat(250)),
            format!(".a = {}true", "!".repeat(250)),
            format!(".a = {}1{}", "if true { ".repeat(63), " }".repeat(63)),
            format!(".a = {}1{}", "{ 1 + 1 + 1 + ".repeat(62), " }".repeat(62)),
            format!("if .x == 0 {{ 1 }}{}", " else if .x == 1 { 1 }".repeat(80)),
        ];
        let check = move || {
            for source in &sources {
                match compile(source, TopicWriter::Bridge) {
                    Ok(program) => drop(program.run(Value::Null, &Metadata::default())),
                    Err(error) => assert!(matches!(error, CompileError::Rejected { .. }), "{error}"),
                }
            }
        };
        thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(check).unwrap().join().unwrap();
    }

    #[test]
    fn programs_are_shared_between_threads() {
        fn shared<T: Clone + Send + Sync>(_: &T) {}
        shared(&compile(".a = 1", TopicWriter::Bridge).unwrap());
    }

    #[test]
    fn without_a_bridge_a_program_must_handle_what_is_absent() {
        let compiles = |source| compile(source, TopicWriter::Others).is_ok();
        for source in [
            ".a = split(%topic, \"/\")",
            ".a = %qos + 1",
            ".a = !%retained",
            ".a = upcase(%properties.unit)",
            ".a = to_unix_timestamp(%ingested_at)",
        ] {
            assert!(!compiles(source), "{source}");
        }
        let source = ".a = split(%topic, \"/\")[1] ?? \"none\"\n.b = %qos\n.c = %partition + 1\n\
            if %ingested_at != null { .d = to_unix_timestamp!(%ingested_at) }\n.e = %properties.unit\n\
            .f = exists(%topic)";
        let program = compile(source, TopicWriter::Others).unwrap();
        let absent = program.run(json("{}"), &Metadata { partition: 4, ..Metadata::default() });
        assert_eq!(field(&absent, "a"), Value::from("none"));
        assert_eq!(field(&absent, "b"), Value::Null);
        assert_eq!(field(&absent, "c"), Value::from(5));
        assert_eq!(field(&absent, "e"), Value::Null);
        assert_eq!(field(&absent, "f"), Value::from(false));
        let bridged = program.run(json("{}"), &metadata());
        assert_eq!(field(&bridged, "a"), Value::from("7"));
        assert_eq!(field(&bridged, "d"), Value::from(1_795_428_000));
        assert_eq!(field(&bridged, "e"), Value::from("F"));
    }

    #[test]
    fn with_a_bridge_a_record_of_others_does_not_run_a_program_that_reads_its_origin() {
        let nothing = Metadata::default();
        let run = |source| compile(source, TopicWriter::Bridge).unwrap().run(json("{}"), &nothing);
        for source in [".a = split(%topic, \"/\")", ".a = %properties.unit", ".a = %", ".a = %qos"] {
            assert_eq!(run(source), Outcome::WithoutOrigin, "{source}");
        }
        assert_eq!(field(&run(".a = %offset"), "a"), Value::from(0));
    }
}
