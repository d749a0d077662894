//! From the outbox to the socket.

use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::Error;

use super::connection::Socket;
use super::outbox::{Item, Load, Outbox};

/// Bytes handed to the socket before they are flushed together.
const WRITE_BATCH: usize = 256 * 1024;

/// The socket cannot be written to any more.
pub(super) struct Broken;

/// Writes until the close frame is out.
pub(super) async fn write(
    outbox: &Outbox,
    sink: &mut SplitSink<Socket, Message>,
    ping_written: &watch::Sender<Option<Instant>>,
) -> Result<(), Broken> {
    loop {
        let mut next = Some(outbox.next().await);
        let mut load = Load::default();
        let mut pinged = false;
        let mut closed = false;
        while let Some(item) = next.take() {
            load.add(&item);
            let message = match item {
                Item::Event(text) | Item::Response(text) => Message::Text(text),
                Item::Ping => {
                    pinged = true;
                    Message::Ping(Vec::new().into())
                }
                Item::Close(frame) => {
                    closed = true;
                    Message::Close(frame)
                }
            };
            sink.feed(message).await.map_err(|_| Broken)?;
            if !closed && load.bytes() < WRITE_BATCH {
                next = outbox.try_next();
            }
        }
        match sink.flush().await {
            Ok(()) => {}
            // Said once the close handshake is complete.
            Err(Error::ConnectionClosed) if closed => {}
            Err(_) => return Err(Broken),
        }
        outbox.sent(load);
        if pinged {
            ping_written.send_replace(Some(Instant::now()));
        }
        if closed {
            return Ok(());
        }
    }
}
