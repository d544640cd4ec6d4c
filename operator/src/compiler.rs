//! Judges the programs of pipelines, each in a process of its own.
//!
//! A hostile program may keep the compiler busy, make it take much memory or crash it. All of that ends with the process,
//! and what the compiler needs is not in the operator's memory: `iotpipeline-operator compile` is the other end.

use std::{
    ffi::OsString,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Write},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use clap::Parser;
use crds::IoTPipelineSpec;
use program::{CompileError, TopicWriter};
use serde::{Deserialize, Serialize};
use snafu::{ResultExt, Snafu};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

/// How long a process may take. The compiler gives up earlier, and says so.
const PATIENCE: Duration = Duration::from_secs(30);

/// The word that asks for the other end.
const COMPILE: &str = "compile";

/// Says that a bridge writes the program's topic.
const BRIDGE: &str = "--bridge";

/// A program, and who writes its topic.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Source<'a> {
    text: &'a str,
    writer: TopicWriter,
}

/// What the compiler says of a program.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Why it is not accepted, for its author.
    pub problem: Option<String>,
    /// Whether it would say the same again: it was not too slow, and did not fail itself.
    pub is_final: bool,
}

/// Why a program could not be judged; no fault of its own.
#[derive(Debug, Snafu)]
pub enum Error {
    /// The compiler's process could not be started.
    #[snafu(display("failed to run the compiler {}", executable.display()))]
    Run {
        /// What was to be run.
        executable: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Runs the compiler.
#[derive(Clone, Debug)]
pub struct Compiler {
    executable: PathBuf,
}

/// Compiles the program on the standard input and writes the verdict, as JSON, to the standard output.
#[derive(Clone, Copy, Debug, Parser)]
#[command(name = "iotpipeline-operator compile")]
pub struct Compilation {
    /// The pipeline has a bridge, so that `%topic` and its like are there.
    #[arg(long)]
    bridge: bool,
}

impl<'a> Source<'a> {
    /// The program of a spec, if it has one.
    pub fn of(spec: &'a IoTPipelineSpec) -> Option<Self> {
        let text = spec.processing.program.as_deref()?;
        let writer = if spec.mqtt.is_some() { TopicWriter::Bridge } else { TopicWriter::Others };
        Some(Self { text, writer })
    }

    /// Another number for another program, or another writer of its topic.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// Compiles it in this process.
    pub fn judge(&self) -> Verdict {
        let error = program::compile(self.text, self.writer).err();
        let is_final =
            matches!(error, None | Some(CompileError::Limits { .. } | CompileError::Rejected { .. }));
        Verdict { problem: error.map(|error| error.to_string()), is_final }
    }
}

impl Compiler {
    /// The compiler that this operator's executable is too.
    pub fn new(executable: impl Into<PathBuf>) -> Self {
        Self { executable: executable.into() }
    }

    /// Compiles a program in another process.
    ///
    /// # Errors
    /// Fails where the process does not start.
    pub async fn judge(&self, source: Source<'_>) -> Result<Verdict, Error> {
        let run = RunSnafu { executable: &self.executable };
        let mut command = Command::new(&self.executable);
        command.arg(COMPILE).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        if source.writer == TopicWriter::Bridge {
            command.arg(BRIDGE);
        }
        let mut process = command.spawn().context(run)?;
        let input = process.stdin.take();
        let talk = async {
            if let Some(mut input) = input {
                // Where it ends before it has heard everything, how it ended says more.
                drop(input.write_all(source.text.as_bytes()).await);
            }
            process.wait_with_output().await
        };
        let Ok(ended) = timeout(PATIENCE, talk).await else {
            return Ok(Verdict::failed(&format!("it did not end within {} s", PATIENCE.as_secs())));
        };
        let output = ended.context(run)?;
        let verdict = serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success());
        Ok(verdict.unwrap_or_else(|| Verdict::failed(&output.status.to_string())))
    }
}

impl Verdict {
    fn failed(how: &str) -> Self {
        Self { problem: Some(format!("the compiler failed on this program: {how}")), is_final: false }
    }
}

impl Compilation {
    /// What the command line asks to compile; `None` where it asks for something else.
    pub fn asked_for(command_line: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut arguments = command_line.into_iter().skip(1).peekable();
        arguments.peek().is_some_and(|first| first == COMPILE).then(|| Self::parse_from(arguments))
    }

    /// Reads, compiles and writes.
    ///
    /// # Errors
    /// Fails where the input is no text, or nobody reads the output.
    pub fn run(self) -> io::Result<()> {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        let writer = if self.bridge { TopicWriter::Bridge } else { TopicWriter::Others };
        let verdict = Source { text: &text, writer }.judge();
        serde_json::to_writer(io::stdout(), &verdict)?;
        io::stdout().flush()
    }
}
