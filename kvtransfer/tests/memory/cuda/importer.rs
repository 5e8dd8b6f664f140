//! A second process, for the tests that share memory between two.

use kvferry_transfer::memory::Region;
use kvferry_transfer::memory::cuda::Export;

use super::Second;
use super::{bytes, cuda, fill, pattern};
use crate::process::{from_hex, serve, to_hex};

const ROLE: &str = "cuda::importer::imports_and_exports_as_it_is_told";

pub fn start(variables: &[(&str, &str)]) -> Second {
    Second::start(ROLE, variables)
}

/// Not for itself: it is what the other process runs.
#[test]
fn imports_and_exports_as_it_is_told() {
    serve(ROLE, || {
        let mut held: Option<Region> = None;
        Box::new(move |words| match words {
            ["import", export] => {
                match Export::from_bytes(&from_hex(export)).and_then(|export| cuda().import(&export)) {
                    Ok(region) => {
                        let found = format!("{} {}", region.kind(), region.len());
                        held = Some(region);
                        found
                    }
                    Err(problem) => format!("{} {problem}", problem.code()),
                }
            }
            ["twice", export] => {
                let export = Export::from_bytes(&from_hex(export)).unwrap();
                let (one, two) = (cuda().import(&export).unwrap(), cuda().import(&export).unwrap());
                drop(one);
                to_hex(&bytes(&two)[..8])
            }
            ["fill", seed] => {
                let region = held.as_ref().unwrap();
                fill(region, &pattern(usize::try_from(region.len()).unwrap(), seed.parse().unwrap()));
                "filled".into()
            }
            ["is", seed] => {
                let bytes = bytes(held.as_ref().unwrap());
                (bytes == pattern(bytes.len(), seed.parse().unwrap())).to_string()
            }
            ["export"] => to_hex(&held.as_ref().unwrap().cuda().unwrap().export().unwrap().to_bytes()),
            ["export", "again"] => held
                .as_ref()
                .unwrap()
                .cuda()
                .unwrap()
                .export()
                .map_or_else(|problem| problem.code().into(), |_| "exported".into()),
            ["allocate", device, len] => {
                held = Some(super::memory(&cuda(), device.parse().unwrap(), len.parse().unwrap()));
                "allocated".into()
            }
            ["let", "go"] => {
                held = None;
                "gone".into()
            }
            other => panic!("{other:?}"),
        })
    });
}
