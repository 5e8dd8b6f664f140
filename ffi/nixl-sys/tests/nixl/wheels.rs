//! NIXL in pip's folders: where it is looked for, and how the wheel tells its version.

use std::fs;
use std::path::{Path, PathBuf};

use kvferry_nixl_sys::{Candidate, Refusal, candidates_in, open};

use crate::CC;
use crate::look_alike::{look_alike, required};
use crate::refusals::refusal;

/// A look-alike laid out as a wheel for CUDA 13, beside the package information `info`.
fn wheel(site: &str, info: &str) -> PathBuf {
    let file = CC.empty(&format!("{site}/.nixl_cu13.mesonpy.libs/libnixl_capi.so"));
    CC.empty(&format!("{site}/{info}/METADATA"));
    fs::copy(look_alike(&format!("nixl-{site}.so"), false, &required()), &file).unwrap();
    file
}

#[test]
fn wheels_are_found_the_newest_cuda_first() {
    let wheel = |cuda: u32| CC.empty(&format!("site/.nixl_cu{cuda}.mesonpy.libs/libnixl_capi.so"));
    let (older, newer) = (wheel(12), wheel(13));
    let folders = ["no-site", "site"].map(|name| Path::new(CC.folder).join(name));
    assert_eq!(candidates_in(&folders), [Candidate::File(newer), Candidate::File(older)]);
}

#[test]
fn the_package_beside_the_file_tells_the_version() {
    let nixl = open(&wheel("told", "nixl_cu13-1.5.1.dist-info")).unwrap();
    assert_eq!(nixl.version().packaged.as_deref(), Some("1.5.1"));
    assert_eq!(nixl.version().to_string(), "1.5.1");
}

#[test]
fn the_package_of_another_cuda_tells_nothing() {
    let nixl = open(&wheel("untold", "nixl_cu12-1.5.1.dist-info")).unwrap();
    assert_eq!(nixl.version().packaged, None);
    assert_eq!(nixl.version().to_string(), "not stated; it lacks the later functions");
}

#[test]
fn another_major_version_is_refused() {
    for (site, version) in [("before", "0.10.1"), ("after", "2.0.0")] {
        let refused = refusal(&wheel(site, &format!("nixl_cu13-{version}.dist-info")));
        assert!(matches!(&refused, Refusal::Version { found, .. } if found == version), "{refused}");
    }
}
