//! Plugins that are listed, and which of them are of use: tried in processes of their own.

use std::time::Duration;

use kvferry_transfer::fabric::nixl::{Plugin, Plugins, Probe, Verdict, answer_probe, plugins};

use crate::support::with_each;

/// In a process that [`plugins`] has started, this is the main function.
#[test]
fn a_process_that_is_asked_tries_and_any_other_does_not() {
    if let Some(code) = answer_probe() {
        assert_eq!(code, std::process::ExitCode::SUCCESS);
    }
}

fn probe(library: &std::path::Path) -> Probe {
    let name = "probe::a_process_that_is_asked_tries_and_any_other_does_not";
    Probe { library: Some(library.into()), ..Probe::by_this_program([name, "--exact", "--nocapture"]) }
}

fn plugin<'a>(all: &'a Plugins, name: &str) -> &'a Plugin {
    all.listed.iter().find(|plugin| plugin.name == name).unwrap()
}

#[test]
fn every_listed_plugin_is_tried_and_those_of_no_use_say_why() {
    with_each("probe::every_listed_plugin_is_tried_and_those_of_no_use_say_why", |library| {
        let all = plugins(&probe(library)).unwrap();
        println!("NIXL {} ({})", all.version, all.library.display());
        for plugin in &all.listed {
            println!("{}: {}; {:?} {:?}", plugin.name, plugin.verdict, plugin.memories, plugin.params);
        }
        assert_eq!(all.library, library.canonicalize().unwrap());
        let (ucx, posix) = (plugin(&all, "UCX"), plugin(&all, "POSIX"));
        assert_eq!((&ucx.verdict, &posix.verdict), (&Verdict::Usable, &Verdict::Usable));
        assert!(ucx.memories.contains(&"DRAM".into()) && posix.memories.contains(&"FILE".into()));
        assert!(ucx.params.iter().any(|(key, _)| key == "ucx_error_handling_mode"));
        // It is loaded, and finds no devices.
        let gusli = plugin(&all, "GUSLI");
        assert!(matches!(&gusli.verdict, Verdict::NotCreated(why) if !why.is_empty()), "{:?}", gusli.verdict);
        assert!(all.usable().all(|plugin| plugin.name != "GUSLI"));
        // What needs a library that is not there names it.
        if let Some(libfabric) = all.listed.iter().find(|plugin| plugin.name == "LIBFABRIC")
            && let Verdict::NotLoaded(why) = &libfabric.verdict
        {
            assert!(why.contains(".so"), "{why}");
        }
    });
}

#[test]
fn a_plugin_that_takes_too_long_is_ended_and_told() {
    with_each("probe::a_plugin_that_takes_too_long_is_ended_and_told", |library| {
        let hurried = Probe { within: Duration::ZERO, ..probe(library) };
        let error = plugins(&hurried).unwrap_err();
        assert_eq!(error.code(), "library");
        assert!(error.to_string().contains("no end within 0 s"), "{error}");
    });
}

#[test]
fn a_library_that_is_missing_and_a_program_that_does_not_answer_are_errors() {
    let nowhere = std::path::Path::new("/nowhere/libnixl_capi.so");
    let text = plugins(&probe(nowhere)).unwrap_err().to_string();
    assert!(text.contains("/nowhere/libnixl_capi.so") && text.contains("install"), "{text}");
    let silent = Probe { program: "/bin/true".into(), ..probe(nowhere) };
    let error = plugins(&silent).unwrap_err();
    assert!(error.to_string().contains("/bin/true does not answer"), "{error}");
    let absent = Probe { program: "/nowhere/program".into(), ..probe(nowhere) };
    assert_eq!(plugins(&absent).unwrap_err().code(), "system");
}
