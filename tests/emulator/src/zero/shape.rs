//! How a streamed answer should look, as the request's headers say.
//!
//! `x-emulator-frames: N` and `x-emulator-itl-us: U`; or, for proxies that drop headers they do not know, the
//! entry `emulator=fN_iU` in `tracestate`, which they pass on.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

/// Frames of a streamed answer unless the request says otherwise.
const DEFAULT_FRAMES: u32 = 16;

/// A streamed answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Frames before the end marker.
    pub(super) frames: u32,
    /// Time between frames. Timers fire on whole milliseconds: frames of shorter intervals come in small
    /// groups, on time on average.
    pub(super) interval: Duration,
}

impl Shape {
    /// Reads the headers; what they do not say is the default.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let traced = headers.get("tracestate").and_then(traced);
        let frames = headers.get("x-emulator-frames").and_then(number).or(traced.map(|(frames, _)| frames));
        let interval =
            headers.get("x-emulator-itl-us").and_then(number).or(traced.map(|(_, interval)| interval));
        Self {
            frames: frames.unwrap_or(DEFAULT_FRAMES),
            interval: Duration::from_micros(interval.unwrap_or(0).into()),
        }
    }
}

fn number(value: &HeaderValue) -> Option<u32> {
    value.to_str().ok()?.trim().parse().ok()
}

fn traced(value: &HeaderValue) -> Option<(u32, u32)> {
    let entry = value.to_str().ok()?.split(',').find_map(|entry| entry.trim().strip_prefix("emulator=f"))?;
    let (frames, interval) = entry.split_once("_i")?;
    Some((frames.parse().ok()?, interval.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&'static str, &str)]) -> (u32, u128) {
        let headers = headers.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()));
        let Shape { frames, interval } = Shape::read(&headers.collect());
        (frames, interval.as_micros())
    }

    #[test]
    fn headers_say_how_many_frames_and_how_far_apart() {
        assert_eq!(read(&[]), (16, 0));
        assert_eq!(read(&[("x-emulator-frames", "3"), ("x-emulator-itl-us", "250")]), (3, 250));
        assert_eq!(read(&[("x-emulator-frames", "three")]), (16, 0));
    }

    #[test]
    fn tracestate_says_it_too_and_yields_to_the_headers() {
        assert_eq!(read(&[("tracestate", "vendor=1, emulator=f5_i9")]), (5, 9));
        assert_eq!(read(&[("tracestate", "emulator=f5_i9"), ("x-emulator-frames", "7")]), (7, 9));
        assert_eq!(read(&[("tracestate", "emulator=f5")]), (16, 0));
    }
}
