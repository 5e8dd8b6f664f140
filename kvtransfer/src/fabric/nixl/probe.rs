//! Plugins that are listed, told apart from those that are of use.
//!
//! NIXL lists what lies in its folder. Whether a plugin can be loaded, and whether its backend can be created on this
//! machine, only trying shows; and trying runs code of drivers and vendors, which may crash, take its time, or bring
//! libraries that this process must not have. So each plugin is tried in a process of its own, which is ended when it takes
//! too long. NIXL itself is not even loaded here.
//!
//! The process that tries is the caller's program again: it must call [`answer_probe`] before anything else.

use std::env;
use std::ffi::{CStr, CString, OsString};
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use kvferry_nixl_sys::Library;

use super::library::load;
use super::raw::{Agent, Params, Threads, known, listed};
use crate::Error;

/// In the process that tries: what to try.
const TASK: &str = "KVFERRY_NIXL_PROBE";
/// And which library with, if one was named.
const LIBRARY: &str = "KVFERRY_NIXL_PROBE_LIBRARY";
/// The task of listing plugins; every other is a plugin's name.
const LIST: &str = "*";
/// Before each line of an answer: NIXL and its plugins write to the same output.
const MARK: &str = "kvferry-nixl-probe ";

/// Bytes kept of what a process that tries writes: an answer has a few hundred, and plugins may write without end.
const MAX_OUTPUT: usize = 256 << 10;

/// Characters of a reason: for one line of a report.
const MAX_REASON: usize = 400;

/// How plugins are tried.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The program that calls [`answer_probe`] first: this one, as a rule (`/proc/self/exe`).
    pub program: PathBuf,
    /// What it is called with, such as a subcommand that leads to that call.
    pub args: Vec<OsString>,
    /// The file of NIXL's C API. `None`: the first that is found.
    pub library: Option<PathBuf>,
    /// How long one plugin may take.
    pub within: Duration,
}

impl Probe {
    /// With this program again, called with `args`; a plugin may take 20 seconds: those that look for devices take a few.
    pub fn by_this_program(args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self { program: "/proc/self/exe".into(), args, library: None, within: Duration::from_secs(20) }
    }
}

/// What became of trying a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It was loaded, and its backend created, with its own parameters.
    Usable,
    /// It cannot be loaded: why, as far as NIXL has said so. A library that it needs is missing, mostly.
    NotLoaded(String),
    /// Its backend cannot be created: why, as far as that was said. It wants parameters or devices, mostly.
    NotCreated(String),
    /// It ended its process: how, and what it had said.
    Died(String),
    /// It took longer than it may.
    TooSlow(Duration),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usable => f.write_str("usable"),
            Self::NotLoaded(why) => write!(f, "listed, but cannot be loaded: {why}"),
            Self::NotCreated(why) => write!(f, "listed, but cannot be created: {why}"),
            Self::Died(how) => write!(f, "listed, but ends its process: {how}"),
            Self::TooSlow(within) => write!(f, "listed, but not there within {} s", within.as_secs()),
        }
    }
}

/// A plugin that is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugin {
    /// As NIXL calls it.
    pub name: String,
    /// Whether it is of use.
    pub verdict: Verdict,
    /// The kinds of memory that it moves, in NIXL's words (`DRAM`, `VRAM`, `FILE`, `OBJECT`, `BLOCK`); empty if unknown.
    pub memories: Vec<String>,
    /// Parameters that it tells of, and their values if nobody says otherwise. It may know more.
    pub params: Vec<(String, String)>,
}

/// What NIXL has on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugins {
    /// The file of its C API.
    pub library: PathBuf,
    /// Its version, as far as it is known.
    pub version: String,
    /// All that it lists.
    pub listed: Vec<Plugin>,
}

impl Plugins {
    /// Those that are of use.
    pub fn usable(&self) -> impl Iterator<Item = &Plugin> {
        self.listed.iter().filter(|plugin| plugin.verdict == Verdict::Usable)
    }
}

/// Tries all plugins, one after the other.
///
/// # Errors
/// [`Error::Library`]: there is no NIXL of use (with all that was tried), or the program that should try gives no answer;
/// [`Error::System`]: it cannot be started.
pub fn plugins(probe: &Probe) -> Result<Plugins, Error> {
    let list = asked(probe, LIST)?;
    if let Some(why) = list.first("error") {
        return Err(Error::Library(why.to_owned()));
    }
    let (Some(library), Some(version)) = (list.first("library"), list.first("version")) else {
        let how =
            format!("{} does not answer what NIXL has: {}", probe.program.display(), list.end(probe.within));
        return Err(Error::Library(how));
    };
    let tried =
        list.all("plugin").map(|name| asked(probe, name).map(|answer| tried(name, &answer, probe.within)));
    let listed = tried.collect::<Result<_, _>>()?;
    Ok(Plugins { library: library.into(), version: version.to_owned(), listed })
}

fn tried(name: &str, answer: &Answer, within: Duration) -> Plugin {
    let loaded = answer.first("loaded").is_some();
    let verdict = match answer.first("verdict") {
        Some("created") => Verdict::Usable,
        Some(why) if loaded => Verdict::NotCreated(answer.reason(why)),
        Some(why) => Verdict::NotLoaded(answer.reason(why)),
        None if answer.status.is_none() => Verdict::TooSlow(within),
        None => Verdict::Died(answer.end(within)),
    };
    let param = |text: &str| text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    Plugin {
        name: name.to_owned(),
        verdict,
        memories: answer.all("memory").map(str::to_owned).collect(),
        params: answer.all("param").filter_map(param).collect(),
    }
}

/// What a process that tries has written.
#[derive(Debug, Default)]
struct Answer {
    lines: Vec<(String, String)>,
    said: String,
    /// `None` if it was ended.
    status: Option<ExitStatus>,
}

impl Answer {
    fn of(stdout: &str, said: String, status: Option<ExitStatus>) -> Self {
        let marked = stdout.lines().filter_map(|line| line.split_once(MARK).map(|(_, line)| line));
        let words = marked.map(|line| line.split_once(' ').unwrap_or((line, "")));
        let lines = words.map(|(word, rest)| (word.to_owned(), rest.to_owned())).collect();
        Self { lines, said, status }
    }

    fn all<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter(move |(word, _)| word == wanted).map(|(_, rest)| rest.as_str())
    }

    fn first(&self, wanted: &str) -> Option<&str> {
        self.lines.iter().find(|(word, _)| word == wanted).map(|(_, rest)| rest.as_str())
    }

    /// The most telling line that NIXL wrote, or else `fallback`.
    fn reason(&self, fallback: &str) -> String {
        let lines = || self.said.lines().map(message_of).filter(|line| !line.is_empty());
        let telling = lines().find(|line| line.contains("cannot open") || line.contains("undefined symbol"));
        let telling = telling.or_else(|| lines().rfind(|line| !line.contains("iscovered")));
        telling.unwrap_or(fallback).chars().take(MAX_REASON).collect()
    }

    /// How its process ended, and what it said last.
    fn end(&self, within: Duration) -> String {
        let how = match self.status {
            None => format!("no end within {} s", within.as_secs()),
            Some(status) => match status.signal() {
                Some(signal) => format!("signal {signal}"),
                None => format!("exit code {}", status.code().unwrap_or_default()),
            },
        };
        let said = self.reason("");
        if said.is_empty() { how } else { format!("{how}; {said}") }
    }
}

/// The text of a line of NIXL's log, without time and place.
fn message_of(line: &str) -> &str {
    line.split_once("] ").map_or(line, |(_, message)| message).trim()
}

/// Has one thing tried in a process of its own.
fn asked(probe: &Probe, task: &str) -> Result<Answer, Error> {
    let mut run = Command::new(&probe.program);
    run.args(&probe.args).env(TASK, task).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Why a plugin cannot be loaded is said at this level.
    run.env("NIXL_LOG_LEVEL", "INFO");
    match &probe.library {
        Some(file) => run.env(LIBRARY, file),
        None => run.env_remove(LIBRARY),
    };
    let mut child =
        run.spawn().map_err(|error| Error::system("starting a process that tries NIXL's plugins", &error))?;
    let (out, said) = (child.stdout.take().map(read_in_thread), child.stderr.take().map(read_in_thread));
    let status = ended(&mut child, probe.within);
    // A process of the plugin's own may hold the pipes still: it is not waited for.
    let read = |channel: Option<mpsc::Receiver<String>>| {
        channel.and_then(|channel| channel.recv_timeout(Duration::from_secs(1)).ok()).unwrap_or_default()
    };
    Ok(Answer::of(&read(out), read(said), status))
}

fn read_in_thread(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (whole, read) = mpsc::channel();
    thread::spawn(move || {
        let (mut bytes, most) = (Vec::new(), u64::try_from(MAX_OUTPUT).unwrap_or(u64::MAX));
        let mut pipe = pipe.take(most);
        // What was read so far is what there is.
        pipe.read_to_end(&mut bytes).ok();
        // Nobody waits for it any more, at worst.
        whole.send(String::from_utf8_lossy(&bytes).into_owned()).ok();
        // The rest is thrown away, so that nobody stands still for a full pipe.
        io::copy(&mut pipe.into_inner(), &mut io::sink()).ok();
    });
    read
}

/// Waits for a process' end, and ends it itself after that time: `None` then.
fn ended(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    const LOOK_EVERY: Duration = Duration::from_millis(5);
    let mut waited = Duration::ZERO;
    while waited < within {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        thread::sleep(LOOK_EVERY);
        waited += LOOK_EVERY;
    }
    child.kill().ok();
    child.wait().ok();
    None
}

/// If this process was started by [`plugins`], tries what it is to try, and says how to exit: do so at once. `None` in any
/// other process, at no cost.
pub fn answer_probe() -> Option<ExitCode> {
    let task = env::var(TASK).ok()?;
    let library = env::var_os(LIBRARY).map(PathBuf::from);
    let say = |word: &str, text: &str| {
        let line = format!("{MARK}{word} {}\n", text.replace('\n', " "));
        // In one piece; whoever asked is gone, at worst.
        io::stdout().lock().write_all(line.as_bytes()).ok();
    };
    match load(library.as_deref()) {
        Err(error) => say("error", &error.to_string()),
        Ok(nixl) if task == LIST => list(&nixl, say),
        Ok(nixl) => match CString::new(task) {
            Ok(plugin) => try_out(&nixl, &plugin, say),
            Err(_) => return Some(ExitCode::FAILURE),
        },
    }
    Some(ExitCode::SUCCESS)
}

fn list(nixl: &Arc<Library>, say: impl Fn(&str, &str)) {
    match listed(nixl) {
        Ok(names) => names.iter().for_each(|name| say("plugin", name)),
        Err(status) => say("error", &format!("NIXL {} does not list its plugins: {status}", nixl.version())),
    }
    say("library", &nixl.file().to_string_lossy());
    say("version", &nixl.version().to_string());
}

fn try_out(nixl: &Arc<Library>, plugin: &CStr, say: impl Fn(&str, &str)) {
    let of_itself = match known(nixl, plugin) {
        Ok(of_itself) => of_itself,
        Err(status) => return say("verdict", &status.to_string()),
    };
    say("loaded", "");
    of_itself.memories.iter().for_each(|memory| say("memory", memory));
    of_itself.params.iter().for_each(|(key, value)| say("param", &format!("{key}={value}")));
    let threads = Threads { progress: true, every: 100_000 };
    match Agent::open(Arc::clone(nixl), c"kvferry-probe", plugin, &Params::default(), threads, false) {
        Ok(_) => say("verdict", "created"),
        Err((status, _)) => say("verdict", &status.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(3);

    fn verdict(stdout: &str, said: &str, code: Option<i32>) -> Verdict {
        tried("X", &Answer::of(stdout, said.into(), code.map(ExitStatus::from_raw)), WITHIN).verdict
    }

    #[test]
    fn only_what_was_created_is_usable_and_the_rest_says_why_not() {
        let (loaded, created) = (format!("{MARK}loaded \n"), format!("noise{MARK}verdict created\n"));
        assert_eq!(verdict(&format!("{loaded}{created}"), "", Some(0)), Verdict::Usable);
        let refused = format!("{MARK}verdict not found\n");
        let log = "I1121 21:44:10 1 plugins.cpp:1] Discovered backend plugin: X\n\
                   I1121 21:44:10 1 plugins.cpp:2] no X: libx.so.1: cannot open shared object file\n\
                   E1121 21:44:10 1 agent.cpp:3] unsupported backend\n";
        let why = "no X: libx.so.1: cannot open shared object file";
        assert_eq!(verdict(&refused, log, Some(0)), Verdict::NotLoaded(why.into()));
        let failed = verdict(&format!("{loaded}{refused}"), "E1121 1 agent.cpp:3] creation failed", Some(0));
        assert_eq!(failed, Verdict::NotCreated("creation failed".into()));
        assert_eq!(verdict(&refused, "", Some(0)), Verdict::NotLoaded("not found".into()));
    }

    #[test]
    fn a_process_that_crashes_or_does_not_end_is_told() {
        assert_eq!(verdict("", "", Some(11)), Verdict::Died("signal 11".into()));
        assert_eq!(
            verdict("", "x.cpp:1] bad device", Some(256)),
            Verdict::Died("exit code 1; bad device".into())
        );
        assert_eq!(verdict("", "", None), Verdict::TooSlow(WITHIN));
    }

    #[test]
    fn what_a_plugin_says_of_itself_is_kept() {
        let stdout = format!("{MARK}memory DRAM\n{MARK}memory FILE\n{MARK}param a=b=c\n{MARK}param none\n");
        let plugin = tried("X", &Answer::of(&stdout, String::new(), None), WITHIN);
        assert_eq!(plugin.memories, ["DRAM", "FILE"]);
        assert_eq!(plugin.params, [("a".to_owned(), "b=c".to_owned())]);
    }

    #[test]
    fn nobody_is_taken_for_a_process_that_tries() {
        assert_eq!(env::var_os(TASK), None);
        assert!(answer_probe().is_none());
    }
}
