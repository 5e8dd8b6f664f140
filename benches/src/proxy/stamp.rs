//! Which version of another proxy stands beside ours: a figure without it is worth nothing a month later.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The version of the Python package that a console script belongs to, asked of the interpreter in its first line.
pub(super) fn python_package(script: &Path) -> Option<String> {
    let text = fs::read_to_string(script).ok()?;
    let interpreter = text.lines().next()?.strip_prefix("#!")?.trim().to_owned();
    let package = script.file_name()?.to_str()?;
    let code = format!("import importlib.metadata as m; print(m.version({package:?}))");
    let output = Command::new(interpreter).args(["-c", &code]).output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !version.is_empty()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_without_an_interpreter_has_no_version() {
        assert_eq!(python_package(Path::new("/nonexistent/script")), None);
    }
}
