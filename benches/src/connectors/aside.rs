//! Small servers beside the load, each on a thread of its own: what they take must not be taken from the one thread that
//! makes the load.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::thread;

use tokio::net::{TcpListener, TcpStream};

use crate::Result;

/// Serves each connection to a free port with `serve`, until the process ends. Returns the address.
///
/// # Errors
/// When there is no port or no thread.
pub(super) fn listen<F>(name: &str, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Result<SocketAddr>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = StdListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let accept = async move {
        let listener = TcpListener::from_std(listener)?;
        // A failed accept means no more descriptors, which the requests that then fail will say.
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true)?;
            tokio::spawn(serve(stream));
        }
        Ok::<_, std::io::Error>(())
    };
    thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(accept))?;
    Ok(address)
}
