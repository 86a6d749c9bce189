//! The loop that takes connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use poem::{Endpoint, Response};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::ConnectionLimits;
use super::serve::{Ends, Shared, connection};
use super::table::{Full, Table};

/// Pause after a failed accept; out of file descriptors, the next try fails as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `endpoint` on `listener` until `shutdown` is ready; then takes nothing new and returns when
/// the last answer is sent, or after `drain_limit`.
///
/// # Errors
/// The listener cannot be used.
pub(in crate::server) async fn serve<E>(
    listener: TcpListener,
    endpoint: E,
    limits: ConnectionLimits,
    shutdown: impl Future<Output = ()>,
    drain_limit: Duration,
) -> io::Result<()>
where
    E: Endpoint<Output = Response> + 'static,
{
    let limits = limits.resolved();
    let local = listener.local_addr()?;
    let table = Arc::new(Table::new(limits));
    let (closing, over) = (CancellationToken::new(), CancellationToken::new());
    let shared =
        Arc::new(Shared { endpoint, limits, closing: closing.clone(), over: over.clone() });
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = shutdown.as_mut() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, remote)) => {
                // A socket that is gone already fails here; serving it ends by itself. Single tokens
                // are small writes that must not wait for more.
                let _ = socket.set_nodelay(true);
                match table.enter(remote.ip()) {
                    Ok(place) => {
                        let ends = Ends { local, remote };
                        tokio::spawn(connection(socket, ends, place, Arc::clone(&shared)));
                    }
                    Err(full) => refuse(socket, full, &table),
                }
            }
            Err(error) => {
                let spared = table.spare_one();
                if table.may_log() {
                    tracing::warn!(%error, spared, "a connection could not be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    closing.cancel();
    // Whoever has not finished by then is cut off.
    let _cut_off = tokio::time::timeout(drain_limit, table.empty()).await;
    over.cancel();
    Ok(())
}

/// Tells a client why it is not served, as far as the socket takes it at once.
fn refuse(mut socket: TcpStream, full: Full, table: &Table) {
    let problem = match full {
        Full::Server(max) => format!("all {max} connections are in use (connections.max)"),
        Full::Address(max) => format!(
            "all {max} connections that one address may have are in use \
             (connections.max_per_address)"
        ),
    };
    if table.may_log() {
        tracing::warn!("a connection was refused: {problem}");
    }
    let body = serde_json::json!({"error": {
        "message": problem, "type": "overloaded_error", "code": "too_many_connections", "param": null,
    }})
    .to_string();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    tokio::spawn(async move {
        let told = async {
            socket.write_all(answer.as_bytes()).await?;
            socket.shutdown().await
        };
        // The client's request is not read; it may never learn why.
        let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
    });
}
