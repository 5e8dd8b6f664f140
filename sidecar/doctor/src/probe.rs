//! Libraries, asked in a process of their own: two copies of UCX in one process share state, a plugin may hang or crash,
//! and the answer is worth having all the same. The child is this program; it prints one line of JSON.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use kvferry_transfer::fabric::{nixl, ucx};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How long a library may take to look at the machine. NIXL starts every plugin, some of which wait for services.
const PATIENCE: Duration = Duration::from_secs(30);

/// Most of an answer that is read: some dozens of devices, a line each.
const MAX_ANSWER: u64 = 1 << 20;

/// How often a child that has not ended is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What became of asking a library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Probed<T> {
    /// Its answer.
    Found(T),
    /// It could not be used: why, and what to do.
    Unusable {
        /// In words.
        why: String,
    },
    /// The child did not come back with an answer: the library crashed or hung.
    Crashed {
        /// How it ended.
        how: String,
    },
}

impl<T> Probed<T> {
    /// The answer, if there is one.
    pub fn found(&self) -> Option<&T> {
        match self {
            Self::Found(found) => Some(found),
            _ => None,
        }
    }
}

/// What UCX answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UcxFound {
    /// The file that was loaded.
    pub file: PathBuf,
    /// As it states it.
    pub version: String,
    /// Whether it was built with InfiniBand and RoCE.
    pub has_verbs: bool,
    /// `transport/device` of all that it can use here.
    pub resources: Vec<String>,
    /// Of these, those where a device moves the bytes.
    pub rdma: Vec<String>,
}

/// What NIXL answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NixlFound {
    /// The file that was loaded.
    pub file: PathBuf,
    /// As far as it can be known.
    pub version: String,
    /// Its plugins.
    pub plugins: Vec<PluginFound>,
}

/// A plugin that NIXL lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginFound {
    /// Such as `UCX`.
    pub name: String,
    /// Why it cannot be used here; `None`: it can.
    pub unusable: Option<String>,
}

/// Which library a child is to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Which {
    /// UCX.
    Ucx,
    /// NIXL, or one of its plugins.
    Nixl,
}

fn unusable(verdict: nixl::Verdict) -> Option<String> {
    match verdict {
        nixl::Verdict::Usable => None,
        nixl::Verdict::NotLoaded(why) | nixl::Verdict::NotCreated(why) => Some(why),
        nixl::Verdict::Died(how) => Some(format!("it ends its process: {how}")),
        nixl::Verdict::TooSlow(within) => Some(format!("it was not there within {} s", within.as_secs())),
    }
}

/// In a child of [`ask_nixl`]: tries what it is to try.
pub fn answer_nixl() -> ExitCode {
    nixl::answer_probe().unwrap_or_else(|| {
        eprintln!("kvferry-sidecar doctor: --probe nixl is for the doctor's own use");
        ExitCode::from(2)
    })
}

/// Asks UCX in this process. Only a child should.
pub fn ask_ucx(library: Option<&Path>) -> Probed<UcxFound> {
    match ucx::Survey::take(library) {
        Err(error) => Probed::Unusable { why: error.to_string() },
        Ok(survey) => {
            let place = |found: &ucx::Resource| format!("{}/{}", found.transport, found.device);
            Probed::Found(UcxFound {
                has_verbs: survey.has_verbs(),
                resources: survey.resources.iter().map(place).collect(),
                rdma: survey.rdma().map(place).collect(),
                file: survey.file,
                version: survey.version,
            })
        }
    }
}

/// Asks NIXL, each of its plugins in a child of its own.
pub fn ask_nixl(library: Option<&Path>) -> Probed<NixlFound> {
    let probe = nixl::Probe {
        library: library.map(Path::to_owned),
        ..nixl::Probe::by_this_program(["doctor", "--probe", "nixl"])
    };
    match nixl::plugins(&probe) {
        Err(error) => Probed::Unusable { why: error.to_string() },
        Ok(plugins) => {
            let plugin =
                |plugin: nixl::Plugin| PluginFound { name: plugin.name, unusable: unusable(plugin.verdict) };
            Probed::Found(NixlFound {
                file: plugins.library,
                version: plugins.version,
                plugins: plugins.listed.into_iter().map(plugin).collect(),
            })
        }
    }
}

/// Runs `child` and reads its answer.
pub fn ask<T: DeserializeOwned>(child: Command) -> Probed<T> {
    ask_within(child, PATIENCE)
}

fn ask_within<T: DeserializeOwned>(mut command: Command, patience: Duration) -> Probed<T> {
    // The library's own words would stand between ours.
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return Probed::Crashed { how: format!("it could not be started: {error}") },
    };
    let out = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        match out.map(|out| out.take(MAX_ANSWER).read_to_string(&mut text)) {
            Some(Ok(_)) => text,
            _ => String::new(),
        }
    });
    let how = ended(&mut child, patience);
    let text = reader.join().unwrap_or_default();
    // UCX, for one, prints warnings to standard output; ours is the last line.
    let answer = text.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    answer.unwrap_or(Probed::Crashed { how })
}

/// Waits for the end, or makes it; says how it was.
fn ended(child: &mut Child, patience: Duration) -> String {
    let since = Instant::now();
    while since.elapsed() < patience {
        match child.try_wait() {
            Ok(Some(status)) => return format!("it ended with {status}"),
            Ok(None) => std::thread::sleep(LOOK),
            Err(error) => return format!("it could not be waited for: {error}"),
        }
    }
    drop(child.kill());
    drop(child.wait());
    format!("it did not answer within {} s and was ended", patience.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn an_answer_is_read_past_what_a_library_prints() {
        let script = r#"echo 'WARN something'; echo '{"outcome":"unusable","why":"none here"}'; exit 1"#;
        assert_eq!(ask::<UcxFound>(shell(script)), Probed::Unusable { why: "none here".into() });
    }

    #[test]
    fn a_crash_is_told_with_how_it_ended() {
        let Probed::Crashed { how } = ask::<UcxFound>(shell("kill -SEGV $$")) else { panic!("no crash") };
        assert!(how.contains("signal: 11"), "{how}");
    }

    #[test]
    fn a_library_that_hangs_is_ended() {
        let hangs = ask_within::<UcxFound>(shell("exec sleep 600"), Duration::from_millis(100));
        assert!(matches!(hangs, Probed::Crashed { how } if how.contains("did not answer")));
    }
}
