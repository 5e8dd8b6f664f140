//! Where UCX is looked for in pip's folders.

use std::path::Path;

use kvferry_ucx_sys::{Candidate, candidates_in};

use crate::CC;

#[test]
fn the_copy_with_rdma_comes_before_the_one_without_and_other_libraries_are_left_alone() {
    let without = CC.empty("site/libucx/lib/libucp.so.0");
    let with_rdma = CC.empty("site/nixl_cu12.libs/libucp-77a56834.so.0.0.0");
    CC.empty("site/nixl_cu12.libs/libucs-1899c9e2.so.0.0.0");
    let folders = ["no-site", "site"].map(|name| Path::new(CC.folder).join(name));
    assert_eq!(candidates_in(&folders), [Candidate::File(with_rdma), Candidate::File(without)]);
}
