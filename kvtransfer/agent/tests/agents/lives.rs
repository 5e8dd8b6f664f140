//! Lives of a peer: what was begun with one is void in the next, and nothing stands in the next one's way.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kvferry_agent::{Event, Peer};
use kvferry_transfer::{Access, AgentName, Epoch, RegionId, Token};

use crate::support::{MIB, Of, Side, end, eventually, pattern, segments, soon, wait};

const FABRICS: [Of<'static>; 2] = [Of::Shm, Of::Tcp];
const LEN: u64 = 16 * MIB;

/// Set for the process that is killed: its epoch.
const CHILD: &str = "KVFERRY_AGENT_CHILD";

/// The process that is killed. Run as a test, it does nothing.
#[test]
fn child() {
    let Ok(epoch) = std::env::var(CHILD) else { return };
    let epoch: u64 = epoch.parse().unwrap();
    let side = Side::with("b", epoch, &FABRICS, LEN, |options| options);
    side.fill(u8::try_from(epoch).unwrap());
    let token = u128::from_le_bytes(side.grant(Access::Read).0);
    println!("\nchild {} {token} {}", side.address(), side.region.0);
    // Until it is killed, or whoever started it is gone.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

struct Other {
    process: Child,
    address: String,
    token: Token,
    region: RegionId,
}

impl Other {
    fn start(epoch: u64) -> Self {
        let mut process = Command::new("/proc/self/exe")
            .args(["--exact", "lives::child", "--nocapture", "--test-threads=1"])
            .env(CHILD, epoch.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find(|line| line.starts_with("child ")).expect("it comes up");
        let words: Vec<&str> = line.split(' ').collect();
        Self {
            process,
            address: words[1].into(),
            token: Token(words[2].parse::<u128>().unwrap().to_le_bytes()),
            region: RegionId(words[3].parse().unwrap()),
        }
    }

    fn signal(&self, which: &str) {
        let process = nix::unistd::Pid::from_raw(self.process.id().try_into().unwrap());
        nix::sys::signal::kill(process, which.parse::<nix::sys::signal::Signal>().unwrap()).unwrap();
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[test]
fn a_peer_that_is_killed_in_the_middle_is_lost_and_comes_back_as_another_life() {
    let mut a = Side::new("a", &FABRICS, LEN);
    let mut before: Option<(Peer, Token)> = None;
    for epoch in 1..=8 {
        let mut other = Other::start(epoch);
        let expected = Some((AgentName::new("b").unwrap(), Some(Epoch(epoch))));
        let peer = wait(a.agent.connect(&other.address, expected)).unwrap();
        let all = segments(a.region, other.region, LEN, 1024);
        if let Some((peer, token)) = &before {
            assert_eq!(end(a.agent.read(peer, *token, all.clone(), soon())).unwrap_err(), "stale_epoch");
            let _ = a.agent.notify(peer, "nobody hears it".into());
        }
        // The last of these are under way, or wait, when it dies.
        let transfers: Vec<_> = (0..12)
            .map(|_| a.agent.read(&peer, other.token, all.clone(), soon().verified()))
            .take(usize::try_from(epoch).unwrap() + 1)
            .collect();
        let mut transfers = transfers.into_iter();
        // They write to the same bytes, of the same contents.
        end(transfers.next().unwrap()).unwrap();
        assert!(a.bytes(0, LEN) == pattern(LEN, u8::try_from(epoch).unwrap()), "every byte");
        other.kill();
        for transfer in transfers {
            if let Err(code) = end(transfer) {
                assert_eq!(code, "peer_lost");
            }
        }
        assert_eq!(a.lost(), "peer_lost");
        before = Some((peer, other.token));
    }
    eventually("idleness", || {
        let snapshot = wait(a.agent.snapshot()).unwrap();
        snapshot.peers.is_empty() && (snapshot.transfers, snapshot.chunks) == (0, 0)
    });
    a.agent.deregister(a.region).unwrap();
}

#[test]
fn a_new_life_that_comes_before_the_old_one_is_missed_voids_it() {
    let mut a = Side::new("a", &FABRICS, 64 * MIB);
    let old = Side::with("b", 1, &FABRICS, 64 * MIB, |options| options);
    let peer = a.meet(&old);
    let token = old.grant(Access::Read);
    let all = segments(a.region, old.region, 64 * MIB, 4096);
    let transfers: Vec<_> =
        (0..4).map(|_| a.agent.read(&peer, token, all.clone(), soon().verified())).collect();
    let new = Side::with("b", 2, &FABRICS, 64 * MIB, |options| options);
    let next = new.meet(&a);
    for transfer in transfers {
        if let Err(code) = end(transfer) {
            assert!(code == "stale_epoch" || code == "peer_lost", "{code}");
        }
    }
    let lost = a.until(|event| if let Event::Lost(peer, _) = event { Some(peer) } else { None });
    assert_eq!(lost, peer);
    assert_eq!(end(a.agent.read(&peer, token, all, soon())).unwrap_err(), "stale_epoch");
    let token = a.grant(Access::Write);
    new.fill(7);
    end(new.agent.write(&next, token, segments(new.region, a.region, 64 * MIB, 64), soon())).unwrap();
    assert!(a.bytes(0, 64 * MIB) == pattern(64 << 20, 7), "every byte");
}

#[test]
fn a_peer_that_stands_still_is_lost_and_one_that_wakes_up_is_met_anew() {
    let short = |options| kvferry_agent::Options { silence: Duration::from_millis(600), ..options };
    let mut a = Side::with("a", 1, &FABRICS, LEN, short);
    let mut other = Other::start(1);
    let peer = wait(a.agent.connect(&other.address, None)).unwrap();
    let all = segments(a.region, other.region, LEN, 1024);
    end(a.agent.read(&peer, other.token, all.clone(), soon().verified())).unwrap();
    other.signal("SIGSTOP");
    let transfers: Vec<_> =
        (0..4).map(|_| a.agent.read(&peer, other.token, all.clone(), soon().verified())).collect();
    for transfer in transfers {
        // Over shm, bytes may come from one that stands still; that they are right, it cannot say.
        assert_eq!(end(transfer).unwrap_err(), "peer_silent");
    }
    assert_eq!(a.lost(), "peer_silent");
    other.signal("SIGCONT");
    let again = wait(a.agent.connect(&other.address, None)).unwrap();
    assert_ne!(again, peer, "it is met anew");
    assert_eq!(again.epoch(), peer.epoch());
    end(a.agent.read(&again, other.token, all, soon().verified())).unwrap();
    assert!(a.bytes(0, LEN) == pattern(LEN, 1), "every byte");
    other.kill();
}
