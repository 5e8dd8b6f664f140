//! Everything that runs for the bench, started in the order in which one needs the other: the engines asked directly, the
//! bare forwarder, the sidecar, and other proxies.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use super::plan::{Cell, Streaming};
use super::process::{Process, free_port, http_client};
use super::sides::{Engines, PATH, PREFILL_MEMBERS, Role, Side, job};
use crate::cli::ProxyArgs;
use crate::load::{Job, body};
use crate::{Result, procfs};

/// Everything that runs, and the sides made of it.
#[derive(Debug)]
pub struct Fleet {
    processes: Vec<Process>,
    /// The sides, direct ones first.
    pub sides: Vec<Side>,
    engines: Engines,
    /// What could not be compared, and why.
    pub notes: Vec<String>,
}

impl Fleet {
    /// Starts the engines and every proxy.
    ///
    /// # Errors
    /// When one of them cannot be started; the others are ended.
    pub async fn start(arguments: &ProxyArgs, logs: &Path) -> Result<Self> {
        let mut processes = Vec::new();
        let prefill =
            emulator("prefill", &arguments.emulator, arguments.prefill_port, logs, &mut processes).await?;
        let decode =
            emulator("decode", &arguments.emulator, arguments.decode_port, logs, &mut processes).await?;
        let engines = Engines { prefill, decode, handoff: handoff(prefill).await? };
        let side =
            |name: &str, role, split, address, pid| Side { name: name.to_owned(), role, split, address, pid };
        let mut sides = vec![
            side("direct", Role::Direct, false, decode, None),
            side("direct-pd", Role::Direct, true, decode, None),
        ];
        let mut notes = Vec::new();

        let (address, pid) = forwarder(decode, logs, &mut processes).await?;
        sides.push(side("forwarder", Role::Forwarder, false, address, Some(pid)));
        let (address, pid) = sidecar(arguments, decode, logs, &mut processes).await?;
        sides.push(side("sidecar", Role::Sidecar, false, address, Some(pid)));
        sides.push(side("sidecar-pd", Role::Sidecar, true, address, Some(pid)));
        if let Some(program) = &arguments.router {
            let (address, pid) = router(program, &engines, logs, &mut processes).await?;
            sides.push(side("vllm-router", Role::Router, true, address, Some(pid)));
        } else {
            notes.push("vllm-router is missing (--router PATH): the ratios to it are left out".to_owned());
        }
        for peer in &arguments.peers {
            let (name, address) = parse_peer(peer)?;
            let pid = procfs::listening_pid(address.port());
            if pid.is_none() {
                notes.push(format!(
                    "peer {name}: no process of ours listens on {address}; no CPU time or memory"
                ));
            }
            sides.push(side(&name, Role::Peer, true, address, pid));
        }
        Ok(Self { processes, sides, engines, notes })
    }

    /// What `side` is sent in `cell`.
    pub fn job(&self, side: &Side, cell: &Cell) -> Rc<Job> {
        Rc::new(job(&self.engines, side, cell.body_bytes, cell.streaming))
    }

    /// What `side` is sent for a stream of this form.
    pub fn stream_job(&self, side: &Side, body_bytes: usize, streaming: Streaming) -> Rc<Job> {
        Rc::new(job(&self.engines, side, body_bytes, Some(streaming)))
    }

    /// Ends everything, the proxies before the engines.
    pub async fn stop(self) {
        for process in self.processes.into_iter().rev() {
            process.stop().await;
        }
    }
}

/// Asks the prefill engine for what it hands over. An engine with zero think time always hands over the same.
async fn handoff(prefill: SocketAddr) -> Result<String> {
    let answer = http_client()?
        .post(format!("http://{prefill}{PATH}"))
        .header("content-type", "application/json")
        .body(body::chat(1024, PREFILL_MEMBERS))
        .send()
        .await?;
    let text = answer.error_for_status()?.text().await?;
    let value: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| format!("the prefill engine's answer is no JSON: {error}"))?;
    match &value["kv_transfer_params"] {
        params if params.is_object() => Ok(params.to_string()),
        _ => Err("the prefill engine's answer has no kv_transfer_params; is it started with --role prefill?"
            .into()),
    }
}

/// An engine with zero think time. It is ended with `processes`.
///
/// # Errors
/// When it cannot be started.
pub(crate) async fn emulator(
    role: &str,
    program: &Path,
    port: u16,
    logs: &Path,
    processes: &mut Vec<Process>,
) -> Result<SocketAddr> {
    let port = port.to_string();
    let arguments = ["--role", role, "--host", "127.0.0.1", "--port", &port, "--zero", "--workers", "1"];
    let mut process = Process::start(role, program, &arguments.map(str::to_owned), true, logs)?;
    let address = process.ready_line().await?;
    process.healthy(address).await?;
    processes.push(process);
    Ok(address)
}

async fn forwarder(to: SocketAddr, logs: &Path, processes: &mut Vec<Process>) -> Result<(SocketAddr, u32)> {
    let arguments = ["forwarder", "--listen", "127.0.0.1:0", "--to", &to.to_string()].map(str::to_owned);
    let mut process = Process::start("forwarder", &std::env::current_exe()?, &arguments, true, logs)?;
    let address = process.ready_line().await?;
    let pid = process.pid;
    processes.push(process);
    Ok((address, pid))
}

async fn sidecar(
    arguments: &ProxyArgs,
    decode: SocketAddr,
    logs: &Path,
    processes: &mut Vec<Process>,
) -> Result<(SocketAddr, u32)> {
    let port = free_port()?;
    let mut flags = vec![
        format!("--port={port}"),
        format!("--model-server-port={}", decode.port()),
        "--kv-connector=nixlv2".to_owned(),
        "--secure-proxy=false".to_owned(),
    ];
    flags.extend(arguments.sidecar_args.iter().cloned());
    let mut process = Process::start("sidecar", &arguments.sidecar, &flags, false, logs)?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    process.healthy(address).await?;
    let pid = process.pid;
    processes.push(process);
    Ok((address, pid))
}

async fn router(
    program: &Path,
    engines: &Engines,
    logs: &Path,
    processes: &mut Vec<Process>,
) -> Result<(SocketAddr, u32)> {
    let (port, metrics) = (free_port()?, free_port()?);
    let arguments = [
        "--vllm-pd-disaggregation",
        "--prefill",
        &format!("http://{}", engines.prefill),
        "--decode",
        &format!("http://{}", engines.decode),
        "--policy=round_robin",
        "--prefill-policy=round_robin",
        "--decode-policy=round_robin",
        "--host=127.0.0.1",
        &format!("--port={port}"),
        &format!("--prometheus-port={metrics}"),
    ];
    let mut process = Process::start("vllm-router", program, &arguments.map(str::to_owned), false, logs)?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    process.healthy(address).await?;
    let pid = process.pid;
    processes.push(process);
    Ok((address, pid))
}

/// `http://HOST:PORT` with an optional `,NAME`.
fn parse_peer(text: &str) -> Result<(String, SocketAddr)> {
    let (url, name) = text.split_once(',').map_or((text, None), |(url, name)| (url, Some(name)));
    let authority = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let address = std::net::ToSocketAddrs::to_socket_addrs(authority)
        .ok()
        .and_then(|mut addresses| addresses.next())
        .ok_or_else(|| format!("--peer {text}: want http://HOST:PORT, optionally followed by ,NAME"))?;
    Ok((name.unwrap_or(authority).to_owned(), address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_url_and_perhaps_a_name() {
        assert_eq!(
            parse_peer("http://127.0.0.1:9/,x").unwrap(),
            ("x".to_owned(), "127.0.0.1:9".parse().unwrap())
        );
        assert_eq!(parse_peer("127.0.0.1:9").unwrap().0, "127.0.0.1:9");
        assert!(parse_peer("nonsense").is_err());
    }
}
