//! Which data-parallel rank of the engine a request is for.

use http::HeaderMap;

/// The header by which a proxy picks a rank.
const HEADER: &str = "x-data-parallel-rank";

/// The rank in the header, 0 without it; `None` for one that an engine with `size` ranks does not have.
pub(super) fn read(headers: &HeaderMap, size: u32) -> Option<u32> {
    let Some(value) = headers.get(HEADER) else {
        return Some(0);
    };
    value.to_str().ok()?.parse().ok().filter(|rank| *rank < size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_is_a_number_below_the_size() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, value.parse().unwrap());
            headers
        };
        assert_eq!(read(&HeaderMap::new(), 1), Some(0));
        assert_eq!(read(&with("3"), 4), Some(3));
        for wrong in ["4", "-1", "one", ""] {
            assert_eq!(read(&with(wrong), 4), None, "{wrong:?}");
        }
    }
}
