//! From the outbox to the socket.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::Error;

use super::connection::Socket;
use super::gate::Gate;
use super::outbox::{Item, Load, Outbox};

/// Bytes handed to the socket before they are flushed together.
const WRITE_BATCH: usize = 256 * 1024;

/// The socket cannot be written to any more, or its client does not read.
pub(super) struct Broken;

/// The socket's sending half.
pub(super) struct Writer<'a> {
    pub(super) outbox: &'a Outbox,
    pub(super) sink: &'a mut SplitSink<Socket, Message>,
    pub(super) gate: &'a Gate,
    /// Told when a ping has been written.
    pub(super) ping_written: watch::Sender<Option<Instant>>,
    /// How long nothing at all may leave while something waits to.
    pub(super) patience: Duration,
}

impl Writer<'_> {
    /// Writes until the close frame is out.
    pub(super) async fn write(&mut self) -> Result<(), Broken> {
        loop {
            let first = self.outbox.next().await;
            let (gate, patience) = (self.gate, self.patience);
            if progressing(gate, patience, self.batch(first)).await? {
                return Ok(());
            }
        }
    }

    /// Writes what waits, up to a bound; whether the close frame was among it.
    async fn batch(&mut self, first: Item) -> Result<bool, Broken> {
        let mut next = Some(first);
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
            self.sink.feed(message).await.map_err(|_| Broken)?;
            if !closed && load.bytes() < WRITE_BATCH {
                next = self.outbox.try_next();
            }
        }
        match self.sink.flush().await {
            Ok(()) => {}
            // Said once the close handshake is complete.
            Err(Error::ConnectionClosed) if closed => {}
            Err(_) => return Err(Broken),
        }
        self.outbox.sent(load);
        if pinged {
            self.ping_written.send_replace(Some(Instant::now()));
        }
        Ok(closed)
    }
}

/// Carries on with `work` for as long as something leaves through the gate in every `patience`.
async fn progressing<T>(
    gate: &Gate,
    patience: Duration,
    work: impl Future<Output = Result<T, Broken>>,
) -> Result<T, Broken> {
    let mut work = pin!(work);
    let mut written = gate.written();
    loop {
        match tokio::time::timeout(patience, work.as_mut()).await {
            Ok(done) => return done,
            Err(_) if gate.written() == written => {
                tracing::info!("a client does not read; closing its connection");
                return Err(Broken);
            }
            Err(_) => written = gate.written(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn push(stream: &mut (impl AsyncWriteExt + Unpin), bytes: usize) -> Result<(), Broken> {
        stream.write_all(&vec![0; bytes]).await.map_err(|_| Broken)
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_waited_for_and_one_that_does_not_read_is_not() {
        let gate = Gate::default();
        let (ours, mut theirs) = tokio::io::duplex(10);
        let mut ours = gate.guard(ours);
        let patience = Duration::from_secs(50);
        let slow = async {
            let mut few = [0; 10];
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(40)).await;
                theirs.read_exact(&mut few).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(progressing(&gate, patience, push(&mut ours, 100)), slow);
        assert!(written.is_ok());
        let begun = Instant::now();
        assert!(progressing(&gate, patience, push(&mut ours, 100)).await.is_err());
        assert!(begun.elapsed() <= patience * 2);
    }
}
