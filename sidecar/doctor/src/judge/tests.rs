//! One machine that is as it should be, and one thing after the other wrong with it.

use std::collections::BTreeMap;

use super::*;
use crate::facts::{Absent, DeviceFile, Gid, Gpu, Hca, Limits, Link, Maker, Nic, Port, UNLIMITED};
use crate::probe::{NixlFound, PluginFound, Probed, UcxFound};

/// Eight words would say the same: RoCE at 400 Gb/s, one GPU, everything installed.
pub(crate) fn good() -> Facts {
    let gid = |index, address: &str, roce_v2, interface: Option<&str>| Gid {
        index,
        address: address.into(),
        roce_v2,
        interface: interface.map(Into::into),
    };
    let port = Port {
        number: 1,
        active: true,
        state: "ACTIVE".into(),
        gbit: 400.0,
        link: Link::Ethernet,
        gids: vec![
            gid(0, "fe80:0000:0000:0000:0000:0000:0000:0001", false, Some("eth1")),
            gid(1, "fe80:0000:0000:0000:0000:0000:0000:0001", true, Some("eth1")),
            gid(3, "0000:0000:0000:0000:0000:ffff:0a00:0001", true, Some("eth1")),
        ],
    };
    Facts {
        kernel: "6.8.0-45-generic".into(),
        hcas: vec![Hca {
            name: "mlx5_0".into(),
            board: "MT_0000000838".into(),
            firmware: "28.39.1002".into(),
            bus: Some("0000:17:00.0".into()),
            numa_node: Some(0),
            device_file: DeviceFile::Usable,
            ports: vec![port],
        }],
        absent: vec![],
        nics: vec![Nic {
            name: "eth0".into(),
            up: true,
            gbit: Some(25.0),
            mtu: 9000,
            driver: Some("ena".into()),
        }],
        gpus: vec![Gpu {
            bus: "0000:1a:00.0".into(),
            maker: Maker::Nvidia,
            numa_node: Some(0),
            driver: Some("nvidia".into()),
        }],
        modules: vec!["mlx5_ib".into(), "nvidia".into(), "nvidia_peermem".into()],
        limits: Limits {
            memlock: UNLIMITED,
            open_files: 1 << 20,
            shm: Some(64 << 30),
            ptrace_scope: Some(0),
            memory: None,
            socket_buffers: None,
        },
        environment: BTreeMap::new(),
        ucx: Probed::Found(UcxFound {
            file: "/usr/lib/libucp.so.0".into(),
            version: "1.20.0".into(),
            has_verbs: true,
            resources: vec!["tcp/eth0".into(), "rc_mlx5/mlx5_0:1".into()],
            rdma: vec!["rc_mlx5/mlx5_0:1".into()],
        }),
        nixl: Probed::Found(NixlFound {
            file: "/opt/libnixl_capi.so".into(),
            version: "1.5.1".into(),
            plugins: vec![PluginFound { name: "UCX".into(), unusable: None }],
        }),
    }
}

fn hca(facts: &mut Facts) -> &mut Hca {
    &mut facts.hcas[0]
}

fn ucx(facts: &mut Facts) -> &mut UcxFound {
    let Probed::Found(ucx) = &mut facts.ucx else { panic!("the good machine has UCX") };
    ucx
}

/// What is worse than good on a machine that differs from the good one by `change`.
fn found(want: Want, change: impl FnOnce(&mut Facts)) -> Vec<(&'static str, Level)> {
    let mut facts = good();
    change(&mut facts);
    let (findings, _) = judge(&facts, None, want);
    findings.iter().filter(|found| found.level > Level::Good).map(|found| (found.code, found.level)).collect()
}

#[test]
fn a_good_machine_has_nothing_to_complain_of_and_names_its_lane() {
    let (findings, verdict) = judge(&good(), None, Want::Rdma);
    assert!(findings.iter().all(|found| found.level == Level::Good), "{findings:?}");
    assert_eq!((verdict.level, verdict.rdma), (Level::Good, vec!["rc_mlx5/mlx5_0:1".to_owned()]));
    assert!(verdict.sentence.contains("--peer"), "that it can does not mean that it does");
}

#[test]
fn the_gid_that_is_named_is_routable_of_ipv4_and_of_this_namespace() {
    let (findings, _) = judge(&good(), None, Want::Auto);
    let port = findings.iter().find(|found| found.code == "rdma_port").unwrap();
    assert!(port.what.contains("GID index 3 on eth1"), "{}", port.what);
}

#[test]
fn each_thing_in_the_way_of_rdma_is_named_once_by_its_code() {
    type Change = fn(&mut Facts);
    let cases: [(&str, Change); 8] = [
        ("rdma_no_device_file", |facts| hca(facts).device_file = DeviceFile::Missing),
        ("rdma_forbidden", |facts| hca(facts).device_file = DeviceFile::Forbidden),
        ("rdma_port_down", |facts| hca(facts).ports[0].active = false),
        ("rdma_no_gid", |facts| hca(facts).ports[0].gids.iter_mut().for_each(|gid| gid.roce_v2 = false)),
        ("rdma_gid_elsewhere", |facts| {
            hca(facts).ports[0].gids.iter_mut().for_each(|gid| gid.interface = None);
        }),
        ("rdma_not_in_ucx", |facts| {
            ucx(facts).has_verbs = false;
            ucx(facts).rdma.clear();
        }),
        ("rdma_not_usable", |facts| ucx(facts).rdma.clear()),
        ("ucx_missing", |facts| facts.ucx = Probed::Unusable { why: "not found\ntried: ...".into() }),
    ];
    for (code, change) in cases {
        assert_eq!(found(Want::Auto, change), [(code, Level::Warn)]);
        assert_eq!(found(Want::Rdma, change), [(code, Level::Fail)]);
        let level = found(Want::Any, change);
        assert_eq!(level, [(code, Level::Note)], "who is content with TCP has nothing to do");
    }
}

#[test]
fn every_warning_and_failure_says_what_to_do() {
    let changes: [fn(&mut Facts); 9] = [
        |facts| facts.hcas.clear(),
        |facts| hca(facts).device_file = DeviceFile::Missing,
        |facts| hca(facts).ports.clear(),
        |facts| facts.modules.clear(),
        |facts| facts.limits.memlock = 8 << 20,
        |facts| facts.gpus[0].driver = None,
        |facts| facts.ucx = Probed::Crashed { how: "signal 11".into() },
        |facts| facts.nixl = Probed::Crashed { how: "signal 11".into() },
        |facts| ucx(facts).rdma.clear(),
    ];
    for change in changes {
        let mut facts = good();
        change(&mut facts);
        let (findings, verdict) = judge(&facts, None, Want::Rdma);
        assert!(verdict.level >= Level::Warn);
        for finding in findings.iter().filter(|finding| finding.level >= Level::Warn) {
            assert!(finding.fix.is_some(), "{finding:?}");
        }
    }
}

#[test]
fn a_machine_without_cards_is_fine_unless_rdma_is_wanted() {
    let without: fn(&mut Facts) = |facts| {
        facts.hcas.clear();
        ucx(facts).rdma.clear();
    };
    assert_eq!(found(Want::Auto, without), [("rdma_no_card", Level::Note)]);
    assert_eq!(found(Want::Rdma, without), [("rdma_no_card", Level::Fail)]);
    let mut facts = good();
    without(&mut facts);
    let (_, verdict) = judge(&facts, None, Want::Auto);
    assert!(
        verdict.sentence.starts_with("RDMA is not used: this machine has no RDMA card."),
        "{}",
        verdict.sentence
    );
}

#[test]
fn a_card_that_the_container_was_not_given_is_told_from_no_card() {
    let card = |driver: Option<&str>| Absent { bus: "0000:17:00.0".into(), driver: driver.map(Into::into) };
    let hidden = |facts: &mut Facts, driver| {
        facts.hcas.clear();
        ucx(facts).rdma.clear();
        facts.absent = vec![card(driver), card(driver)];
    };
    assert_eq!(found(Want::Auto, |facts| hidden(facts, None)), [("rdma_no_driver", Level::Warn)]);
    assert_eq!(
        found(Want::Auto, |facts| hidden(facts, Some("mlx5_core"))),
        [("rdma_no_device", Level::Warn)]
    );
}

#[test]
fn a_setting_that_shuts_rdma_out_is_named_with_its_value() {
    let mut facts = good();
    ucx(&mut facts).rdma.clear();
    facts.environment.insert("UCX_TLS".into(), "tcp".into());
    let (findings, _) = judge(&facts, None, Want::Auto);
    let finding = findings.iter().find(|found| found.code == "rdma_not_usable").unwrap();
    assert!(finding.fix.as_ref().unwrap().contains("UCX_TLS=tcp"));
}

#[test]
fn device_memory_that_no_card_reaches_is_a_warning_only_where_there_is_a_card() {
    assert_eq!(found(Want::Auto, |facts| facts.modules.clear()), [("gpu_no_peer_memory", Level::Warn)]);
    let neither = found(Want::Auto, |facts| {
        facts.modules.clear();
        facts.hcas.clear();
        ucx(facts).rdma.clear();
    });
    assert_eq!(neither, [("rdma_no_card", Level::Note)]);
}

#[test]
fn little_locked_memory_matters_where_a_card_pins_it() {
    let little: fn(&mut Facts) = |facts| facts.limits.memlock = 8 << 20;
    assert_eq!(found(Want::Auto, little), [("memlock", Level::Warn)]);
}

#[test]
fn a_plugin_that_nixl_lists_and_cannot_use_is_told_with_its_reason() {
    let mut facts = good();
    let Probed::Found(nixl) = &mut facts.nixl else { panic!("the good machine has NIXL") };
    nixl.plugins.push(PluginFound { name: "GDS".into(), unusable: Some("no cuFile".into()) });
    let (findings, _) = judge(&facts, None, Want::Auto);
    let plugin = findings.iter().find(|found| found.code == "nixl_plugin").unwrap();
    assert_eq!(
        (plugin.level, plugin.what.as_str()),
        (Level::Note, "NIXL lists GDS and cannot use it: no cuFile")
    );
}

#[test]
fn the_worst_comes_first() {
    let mut facts = good();
    facts.limits.ptrace_scope = Some(1);
    ucx(&mut facts).rdma.clear();
    let (findings, _) = judge(&facts, None, Want::Rdma);
    assert!(findings.is_sorted_by(|one, next| one.level >= next.level));
    assert_eq!(findings[0].code, "rdma_not_usable");
}

#[test]
fn a_peer_that_cannot_be_reached_is_a_failure_with_the_reason() {
    let (findings, verdict) = judge(&good(), Some(&Err("connection refused".into())), Want::Any);
    assert_eq!((findings[0].code, verdict.level), ("peer_failed", Level::Fail));
    assert!(findings[0].what.contains("connection refused"));
}
