//! A test in a process of its own, and a second process that it talks to line by line.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// In a process that was started for one test: which.
const ALONE: &str = "KVFERRY_MEMORY_ALONE";

/// What begins a line of ours among those of the harness.
const MARK: &str = "> ";

/// Runs `test` in a process of its own with these variables. `name` is the caller's, as the harness lists it.
pub fn alone(name: &str, variables: &[(&str, &str)], test: impl FnOnce()) {
    if env::var(ALONE).is_ok_and(|which| which == name) {
        return test();
    }
    let mut run = Command::new("/proc/self/exe");
    run.args([name, "--exact", "--nocapture"]).env(ALONE, name).envs(variables.iter().copied());
    let run = run.output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{}\n{said}", run.status);
    assert!(said.contains("1 passed"), "no test is called {name}\n{said}");
}

/// A second process, which runs the test called `role` for as long as this is kept.
pub struct Other {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Other {
    pub fn start(role: &str, variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .args([role, "--exact", "--nocapture"])
            .env(ALONE, role)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (commands, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, commands, answers }
    }

    /// Its answer to a command.
    pub fn ask(&mut self, command: &str) -> String {
        writeln!(self.commands.as_ref().unwrap(), "{command}").unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "it ended at {command}");
            // The harness writes its own words before the first of ours.
            if let Some((_, answer)) = line.split_once(MARK) {
                return answer.trim_end().to_owned();
            }
        }
    }

    /// Ends it at whatever it is.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Lets it end, and waits for that.
    pub fn end(mut self) {
        drop(self.commands.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // A test that fails leaves nobody behind. After `end` there is nobody.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Answers commands, if this process was started for `role`, until the other lets go.
pub fn serve(role: &str, answer: impl FnOnce() -> Box<dyn FnMut(&[&str]) -> String>) {
    if env::var(ALONE).is_ok_and(|which| which == role) {
        let mut answer = answer();
        for line in std::io::stdin().lines() {
            let line = line.unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            println!("{MARK}{}", answer(&words));
        }
    }
}

pub fn to_hex(bytes: &[u8]) -> String {
    let digit = |digit: u8| char::from_digit(digit.into(), 16).unwrap();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

pub fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
