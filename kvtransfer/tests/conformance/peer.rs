//! A process of the suite: does what its standard input says, line by line, and answers on its standard output.

use std::io::{self, BufRead, Write};
use std::sync::mpsc;

use crate::node::Node;

/// Runs until the case lets go of the pipe, at whatever this process is then: it must not outlive its case.
pub fn run() {
    let (lines, commands) = mpsc::channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            lines.send(line.unwrap()).unwrap();
        }
        std::process::exit(0);
    });
    let mut node = Node::default();
    for line in commands {
        let answer = node.run(serde_json::from_str(&line).unwrap());
        let mut out = io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&answer).unwrap()).unwrap();
        out.flush().unwrap();
    }
}
