//! HTTP/2 without TLS of its own: the same handler as over HTTP/1.1 with streams in place of connections, and a client
//! that shares one connection among cheap calls.

mod client;
mod server;

use bytes::Bytes;
use h2::SendStream;

pub use client::{Client, Refused, Slot, Started};
pub(crate) use server::run;
pub use server::serve;

/// Numbers of an HTTP/2 connection.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes a peer may send ahead on one stream, and on all of them.
    pub stream_window: u32,
    pub connection_window: u32,
    pub max_header_list: u32,
    /// Pieces waiting to be written, per stream.
    pub send_buffer: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stream_window: 256 * 1024,
            connection_window: 1024 * 1024,
            max_header_list: 4 * 1024 * 1024,
            send_buffer: 128 * 1024,
        }
    }
}

impl Settings {
    pub(crate) fn server(self) -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_header_list_size(self.max_header_list)
            .max_send_buffer_size(self.send_buffer)
            .max_concurrent_streams(4096);
        builder
    }

    pub(crate) fn client(self) -> h2::client::Builder {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_header_list_size(self.max_header_list)
            .max_send_buffer_size(self.send_buffer)
            .enable_push(false);
        builder
    }
}

/// Sends a piece within the peer's window, waiting where it is full.
///
/// # Errors
/// When the stream or the connection is gone.
pub async fn send(
    stream: &mut SendStream<Bytes>,
    mut piece: Bytes,
    end: bool,
) -> Result<(), h2::Error> {
    // What fits now goes out without asking.
    while piece.len() > stream.capacity() {
        stream.reserve_capacity(piece.len());
        match std::future::poll_fn(|context| stream.poll_capacity(context)).await {
            Some(granted) => {
                let granted = granted?.min(piece.len());
                if granted == piece.len() {
                    break;
                }
                if granted > 0 {
                    stream.send_data(piece.split_to(granted), false)?;
                }
            }
            None => return Err(h2::Error::from(h2::Reason::CANCEL)),
        }
    }
    stream.send_data(piece, end)
}
