//! Accepting connections: without Nagle's delay, and without spinning when accepting fails.

use std::{io, time::Duration};

use poem::{
    http::uri::Scheme,
    listener::{Acceptor, TcpAcceptor},
    web::{LocalAddr, RemoteAddr},
};
use tokio::net::{TcpListener, TcpStream};

/// Pause after a failed accept; out of file descriptors, the next try fails as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An acceptor that sends small writes, such as single tokens, at once.
pub(crate) struct NoDelay(TcpAcceptor);

impl NoDelay {
    /// # Errors
    /// The listener cannot be used.
    pub(crate) fn new(listener: TcpListener) -> io::Result<Self> {
        TcpAcceptor::from_tokio(listener).map(Self)
    }
}

impl Acceptor for NoDelay {
    type Io = TcpStream;

    fn local_addr(&self) -> Vec<LocalAddr> {
        self.0.local_addr()
    }

    async fn accept(&mut self) -> io::Result<(TcpStream, LocalAddr, RemoteAddr, Scheme)> {
        match self.0.accept().await {
            Ok(accepted) => {
                // A socket that is gone already fails here; serving it ends by itself.
                let _ = accepted.0.set_nodelay(true);
                Ok(accepted)
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                Err(error)
            }
        }
    }
}
