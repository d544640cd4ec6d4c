//! Judges the programs of pipelines, each in a process of its own.
//!
//! A hostile program may keep the compiler busy or crash it, and that ends with the process. And the compiler, a fifth of what the
//! operator would be, is in memory only while it is needed: it is a program of its own, `iotpipeline-compiler`.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{ExitStatus, Output, Stdio},
    time::Duration,
};

use clap::Parser;
use crds::IoTPipelineSpec;
use program::{CompileError, TopicWriter};
use serde::{Deserialize, Serialize};
use snafu::{ResultExt, Snafu};
use tokio::{io::AsyncWriteExt, process::Command, sync::Semaphore, time::timeout};

/// How long a process may take. The compiler gives up earlier, and says so; a pod that is told to stop has a little longer.
const PATIENCE: Duration = Duration::from_secs(25);

/// How many processes there may be at once: what they take counts as the operator's.
const AT_ONCE: usize = 4;

/// The signal by which a process is ended from outside, such as where the memory is short.
const SIGKILL: i32 = 9;

/// The compiler's program, in the same directory as the operator's.
const PROGRAM: &str = "iotpipeline-compiler";

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
    /// The compiler's process could not be started, or not be listened to.
    #[snafu(display("failed to run the compiler {}", executable.display()))]
    Run {
        /// What was to be run.
        executable: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The process ended by itself, or was made to, without a verdict.
    #[snafu(display("failed to hear a verdict of the compiler {} ({status}): {message}", executable.display()))]
    NoVerdict {
        /// What was run.
        executable: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it said instead.
        message: String,
    },
}

/// Runs the compiler's program.
#[derive(Debug)]
pub struct Compiler {
    executable: PathBuf,
    patience: Duration,
    processes: Semaphore,
}

/// Compiles the program on the standard input and writes the verdict, as JSON, to the standard output.
#[derive(Clone, Copy, Debug, Parser)]
#[command(name = PROGRAM, version)]
pub struct Compilation {
    /// The pipeline has a bridge, so that `%topic` and its like are there.
    #[arg(long)]
    bridge: bool,
}

impl<'a> Source<'a> {
    /// The program of a spec, if it has one.
    pub fn of(spec: &'a IoTPipelineSpec) -> Option<Self> {
        spec.processing.program.as_deref().map(|text| Self::new(text, spec.mqtt.is_some()))
    }

    fn new(text: &'a str, has_bridge: bool) -> Self {
        Self { text, writer: if has_bridge { TopicWriter::Bridge } else { TopicWriter::Others } }
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
    /// This program is the compiler, and may take so long for one judgement.
    pub fn new(executable: impl Into<PathBuf>, patience: Duration) -> Self {
        Self { executable: executable.into(), patience, processes: Semaphore::new(AT_ONCE) }
    }

    /// The compiler is where this program is.
    ///
    /// # Errors
    /// Fails where it is not.
    pub fn beside_this_program() -> Result<Self, Error> {
        let this = env::current_exe().context(RunSnafu { executable: PROGRAM })?;
        let executable = this.with_file_name(PROGRAM);
        fs::metadata(&executable).context(RunSnafu { executable: &executable })?;
        Ok(Self::new(executable, PATIENCE))
    }

    /// Compiles a program in another process.
    ///
    /// # Errors
    /// Fails where the process does not start, or ends without a verdict although the program does not make it.
    pub async fn judge(&self, source: Source<'_>) -> Result<Verdict, Error> {
        let run = RunSnafu { executable: &self.executable };
        let _one_of_few = self.processes.acquire().await;
        let mut command = Command::new(&self.executable);
        command.env_clear().kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
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
        let Ok(ended) = timeout(self.patience, talk).await else {
            return Ok(Verdict::failed(&format!("it did not end within {} s", self.patience.as_secs())));
        };
        let Output { status, stdout, stderr } = ended.context(run)?;
        match serde_json::from_slice(&stdout) {
            Ok(verdict) if status.success() => Ok(verdict),
            // Such as SIGSEGV. What ends by itself was not made to by a program, and SIGKILL comes from elsewhere.
            _ if status.signal().is_some_and(|signal| signal != SIGKILL) => {
                Ok(Verdict::failed(&status.to_string()))
            }
            _ => {
                let message = String::from_utf8_lossy(&stderr).trim().to_owned();
                NoVerdictSnafu { executable: &self.executable, status, message }.fail()
            }
        }
    }
}

impl Verdict {
    fn failed(how: &str) -> Self {
        Self { problem: Some(format!("the compiler failed on this program: {how}")), is_final: false }
    }
}

impl Compilation {
    /// Reads, compiles and writes.
    ///
    /// # Errors
    /// Fails where the input is no text, or nobody reads the output.
    pub fn run(self) -> io::Result<()> {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        serde_json::to_writer(io::stdout(), &Source::new(&text, self.bridge).judge())?;
        io::stdout().flush()
    }
}
