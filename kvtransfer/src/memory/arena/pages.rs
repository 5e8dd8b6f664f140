//! An arena's file, of the pages that were asked for.

use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

use super::{ArenaProblem, Pages};

/// The kernel's switch for joining pages of shared memory.
const SHMEM: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// A new file of `len` bytes, or of as many more as fill its last page, and those bytes. It can be neither shrunk nor grown
/// by whoever gets hold of it.
pub(super) fn file(name: &str, len: usize, pages: Pages) -> Result<(OwnedFd, usize), ArenaProblem> {
    let name = CString::new(name).map_err(|_| ArenaProblem::Name)?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let huge = match pages {
        Pages::Default | Pages::Transparent => MFdFlags::empty(),
        Pages::Huge2M => MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB,
        Pages::Huge1G => MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_1GB,
    };
    let file =
        memfd_create(name.as_c_str(), flags | huge).map_err(|errno| match (errno, pages.reserved()) {
            // The one thing that is wrong with a memfd of usual pages is its name.
            (Errno::EINVAL, None) => ArenaProblem::Name,
            (Errno::EINVAL | Errno::ENODEV | Errno::ENOENT, Some(size)) => {
                ArenaProblem::HugePages { size, needed: len.div_ceil(size), free: None }
            }
            (errno, _) => ArenaProblem::System("memfd_create", errno as i32),
        })?;
    let too_long = ArenaProblem::System("the arena's length", Errno::EFBIG as i32);
    let whole = len.checked_next_multiple_of(pages.reserved().unwrap_or(1)).ok_or(too_long.clone())?;
    ftruncate(&file, i64::try_from(whole).map_err(|_| too_long)?)
        .map_err(|errno| ArenaProblem::System("ftruncate of an arena", errno as i32))?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))
        .map_err(|errno| ArenaProblem::System("sealing an arena", errno as i32))?;
    Ok((file, whole))
}

/// What it is that `len` bytes of huge pages were not to be had.
pub(super) fn too_few(pages: Pages, len: usize) -> Option<ArenaProblem> {
    let size = pages.reserved()?;
    let folder = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", size >> 10);
    let free = fs::read_to_string(folder + "/free_hugepages").ok().and_then(|text| text.trim().parse().ok());
    Some(ArenaProblem::HugePages { size, needed: len.div_ceil(size), free })
}

/// Whether the kernel joins pages of shared memory that asks for it.
pub(super) fn transparent() -> Result<(), ArenaProblem> {
    chosen(&fs::read_to_string(SHMEM).unwrap_or_else(|_| "[none]".to_owned()))
}

/// The setting is the word in brackets.
fn chosen(text: &str) -> Result<(), ArenaProblem> {
    let setting =
        text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("", |(word, _)| word);
    match setting {
        "always" | "within_size" | "advise" | "force" => Ok(()),
        other => Err(ArenaProblem::Transparent(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_setting_decides_whether_pages_are_joined() {
        assert_eq!(chosen("always within_size [advise] never deny force\n"), Ok(()));
        for (text, setting) in
            [("always within_size advise [never] deny force\n", "never"), ("[none]", "none"), ("", "")]
        {
            assert_eq!(chosen(text), Err(ArenaProblem::Transparent(setting.into())));
        }
    }
}
