//! The libraries: whether what would use the card is there, was built for it, and is let to use it.

use super::{Finding, Level, Want};
use crate::facts::{DeviceFile, Facts};
use crate::probe::{NixlFound, Probed, UcxFound};

/// UCX before this has no way for a transfer's memory to be copied by the kernel in place (CMA with errors reported), and
/// cuts what goes over TCP very small.
const SLOW_BEFORE: (u32, u32) = (1, 19);

pub(super) fn judge(facts: &Facts, want: Want) -> Vec<Finding> {
    let mut findings = ucx(facts, want);
    findings.extend(nixl(&facts.nixl));
    findings
}

fn ucx(facts: &Facts, want: Want) -> Vec<Finding> {
    // Without a card, UCX adds nothing to what we have ourselves.
    let has_card = facts.hcas.iter().any(|hca| hca.device_file == DeviceFile::Usable);
    let matters = if has_card || want == Want::Rdma { want.level() } else { Level::Note };
    match &facts.ucx {
        // The library's own words end with how to install it.
        Probed::Unusable { why } => {
            vec![Finding::new("ucx_missing", matters, "UCX cannot be used here").fix(why)]
        }
        Probed::Crashed { how } => vec![
            Finding::new(
                "ucx_crashed",
                matters,
                format!("UCX does not survive a look at this machine: {how}"),
            )
            .fix("run again with UCX_LOG_LEVEL=info and UCX_LOG_FILE=/tmp/ucx.log, and update UCX"),
        ],
        Probed::Found(ucx) => found(facts, ucx, has_card, want),
    }
}

fn found(facts: &Facts, ucx: &UcxFound, has_card: bool, want: Want) -> Vec<Finding> {
    let file = ucx.file.display();
    let mut findings = vec![Finding::new("ucx", Level::Good, format!("UCX {} in {file}", ucx.version))];
    if has_card && !ucx.has_verbs {
        let what = format!("the UCX in {file} was built without RDMA");
        findings.push(Finding::new("rdma_not_in_ucx", want.level(), what).fix(
            "use one that has it: the distribution's with its ib module, the one inside NIXL's wheel, or a build with \
             --with-verbs (the wheel libucx-cu12 has none); name it with --ucx-library",
        ));
    } else if has_card && ucx.rdma.is_empty() {
        let what = "UCX sees the card and can use none of its transports".to_owned();
        let fix = match restricted(facts) {
            Some((name, value)) => format!("{name}={value} leaves none over: change or remove it"),
            None => "look at memlock above, and at what UCX says with UCX_LOG_LEVEL=debug".to_owned(),
        };
        findings.push(Finding::new("rdma_not_usable", want.level(), what).fix(fix));
    } else if let Some((name, value)) = restricted(facts) {
        let what = format!("{name}={value} is in the environment and decides what UCX may use");
        findings.push(Finding::new("ucx_restricted", Level::Note, what));
    }
    if older(&ucx.version, SLOW_BEFORE) {
        let what = format!("UCX {} is slow over TCP and within one host", ucx.version);
        findings
            .push(Finding::new("ucx_old", Level::Note, what).fix("1.19 or later, if UCX has to do either"));
    }
    findings
}

/// The setting that keeps UCX from choosing by itself.
fn restricted(facts: &Facts) -> Option<(&String, &String)> {
    let names = ["UCX_TLS", "UCX_NET_DEVICES"];
    names.iter().find_map(|name| facts.environment.get_key_value(*name)).filter(|(_, value)| *value != "all")
}

fn older(version: &str, than: (u32, u32)) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) < than)
}

fn nixl(nixl: &Probed<NixlFound>) -> Vec<Finding> {
    match nixl {
        Probed::Unusable { why } => {
            vec![Finding::new("nixl_missing", Level::Note, "NIXL cannot be used here").fix(why)]
        }
        Probed::Crashed { how } => vec![
            Finding::new(
                "nixl_crashed",
                Level::Warn,
                format!("NIXL does not survive a look at its plugins: {how}"),
            )
            .fix("update NIXL, or set NIXL_PLUGIN_DIR to a folder with the plugins that are needed"),
        ],
        Probed::Found(found) => {
            let usable: Vec<_> = found
                .plugins
                .iter()
                .filter(|plugin| plugin.unusable.is_none())
                .map(|plugin| plugin.name.as_str())
                .collect();
            let what =
                format!("NIXL {} in {}; usable: {}", found.version, found.file.display(), listed(&usable));
            let mut findings = vec![Finding::new("nixl", Level::Good, what)];
            findings.extend(found.plugins.iter().filter_map(|plugin| {
                let why = plugin.unusable.as_ref()?;
                Some(Finding::new(
                    "nixl_plugin",
                    Level::Note,
                    format!("NIXL lists {} and cannot use it: {why}", plugin.name),
                ))
            }));
            findings
        }
    }
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers_and_unknown_ones_are_not_old() {
        assert!(older("1.9.0", SLOW_BEFORE) && older("1.18.1", SLOW_BEFORE));
        assert!(!older("1.19.0", SLOW_BEFORE) && !older("2.0", SLOW_BEFORE) && !older("main", SLOW_BEFORE));
    }
}
