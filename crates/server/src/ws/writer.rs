//! From the outbox to the socket.

use std::io::{self, IoSlice};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::poll_fn;
use tokio::time::Instant;

use super::frame::Frame;
use super::outbox::{Item, Load, Outbox};
use crate::stream::WriteHalf;

/// Bytes handed to the socket before they count as sent.
const WRITE_BATCH: usize = 256 * 1024;
/// Frames handed to the system at once.
const SLICES: usize = 32;

/// The socket cannot be written to any more, or its client does not read.
#[derive(Debug)]
pub(super) struct Broken;

/// When the latest ping was written, for whoever waits for its pong in the same task.
#[derive(Default)]
pub(super) struct Pinged(Mutex<Option<Instant>>);

impl Pinged {
    fn set(&self, at: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// The time, once.
    pub(super) fn take(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The socket's sending half.
pub(super) struct Writer<'a> {
    pub(super) outbox: &'a Outbox,
    pub(super) stream: &'a WriteHalf<'a>,
    pub(super) pinged: &'a Pinged,
    /// How long nothing at all may leave while something waits to.
    pub(super) patience: Duration,
}

impl Writer<'_> {
    /// Writes until the close frame is out.
    pub(super) async fn write(&mut self) -> Result<(), Broken> {
        loop {
            let first = self.outbox.next().await;
            if self.batch(first).await? {
                return Ok(());
            }
        }
    }

    /// Writes what waits, up to a bound; whether the close frame was among it.
    async fn batch(&mut self, first: Item) -> Result<bool, Broken> {
        let mut next = Some(first);
        let mut load = Load::default();
        let (mut pinged, mut closed) = (false, false);
        let mut frames = Vec::new();
        while let Some(item) = next.take() {
            load.add(&item);
            pinged |= item == Item::Ping;
            closed |= matches!(item, Item::Close(_));
            frames.push(item.into_frame());
            if !closed && load.bytes() < WRITE_BATCH {
                next = self.outbox.try_next();
            }
        }
        write_all(self.stream, &frames, self.patience).await?;
        self.outbox.sent(load);
        if pinged {
            self.pinged.set(Instant::now());
        }
        Ok(closed)
    }
}

/// What can be written to when it says so.
pub(super) trait Sink {
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Hands on what was taken and still waits.
    fn try_flush(&self) -> io::Result<()>;
}

impl Sink for WriteHalf<'_> {
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_ready(cx)
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_write(slices)
    }

    fn try_flush(&self) -> io::Result<()> {
        self.try_flush()
    }
}

/// Writes the frames, as many at a time as the system takes, for as long as some bytes leave in every `patience`.
pub(super) async fn write_all(stream: &impl Sink, frames: &[Frame], patience: Duration) -> Result<(), Broken> {
    let mut left = frames;
    // Bytes of the first frame that have left.
    let mut gone = 0;
    loop {
        let written = match left.split_first() {
            Some((first, others)) => {
                let mut slices = [IoSlice::new(&[]); SLICES];
                slices[0] = IoSlice::new(&first.as_bytes()[gone..]);
                for (slice, frame) in slices[1..].iter_mut().zip(others) {
                    *slice = IoSlice::new(frame.as_bytes());
                }
                stream.try_write(&slices[..left.len().min(SLICES)])
            }
            None => match stream.try_flush() {
                Ok(()) => return Ok(()),
                Err(error) => Err(error),
            },
        };
        match written {
            Ok(0) => return Err(Broken),
            Ok(written) => {
                gone += written;
                while let Some((first, others)) = left.split_first().filter(|(first, _)| gone >= first.as_bytes().len())
                {
                    gone -= first.as_bytes().len();
                    left = others;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let writable = poll_fn(|cx| stream.poll_ready(cx));
                match tokio::time::timeout(patience, writable).await {
                    Ok(ready) => ready.map_err(|_| Broken)?,
                    Err(_) => {
                        tracing::info!("a client does not read; closing its connection");
                        return Err(Broken);
                    }
                }
            }
            Err(_) => return Err(Broken),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use rustls::pki_types::ServerName;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::Sleep;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use watertight_config::TlsFiles;
    use watertight_testkit::certificates::Authority;

    use crate::stream::{HttpStream, Stream};
    use crate::tls::Tls;

    /// A connection; we write to the first.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0, theirs)
    }

    fn frames(count: usize, bytes: usize) -> Vec<Frame> {
        (0..count).map(|n| Frame::json(&format!("{n}-{}", "x".repeat(bytes)), bytes).unwrap()).collect()
    }

    #[tokio::test]
    async fn frames_of_every_size_arrive_whole_and_in_order() {
        for (count, bytes) in [(1, 0), (1, 3_000_000), (100, 10), (3, 2_000_000), (70, 50_000)] {
            let (mut ours, mut theirs) = pair().await;
            let frames = frames(count, bytes);
            let expected: Vec<u8> = frames.iter().flat_map(|frame| frame.as_bytes().to_vec()).collect();
            let read = tokio::spawn(async move {
                let mut all = Vec::new();
                theirs.read_to_end(&mut all).await.unwrap();
                all
            });
            write_all(&WriteHalf::Plain(ours.split().1), &frames, Duration::MAX).await.unwrap();
            drop(ours);
            assert!(read.await.unwrap() == expected, "{count} frames of {bytes} bytes");
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_given_up() {
        let (mut ours, _theirs) = pair().await;
        // More than the system's two buffers hold.
        let frames = frames(20, 1_000_000);
        assert!(write_all(&WriteHalf::Plain(ours.split().1), &frames, Duration::from_millis(50)).await.is_err());
    }

    /// A connection under TLS; we write to the first.
    async fn secured_pair() -> (Stream, TlsStream<TcpStream>) {
        let (ours, theirs) = pair().await;
        let authority = Authority::new();
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = authority.issue(&["localhost"]).write(dir.path());
        let tls = Tls::load(&TlsFiles { cert, key }).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(authority.client());
        let (ours, theirs) = tokio::join!(tls.accept(ours), connector.connect(name, theirs));
        (HttpStream::Tls(Box::new(ours.unwrap())).into_stream(), theirs.unwrap())
    }

    #[tokio::test]
    async fn under_tls_frames_arrive_whole_and_in_order_and_the_end_is_announced() {
        for (count, bytes) in [(1, 0), (1, 3_000_000), (100, 10), (3, 2_000_000), (70, 50_000)] {
            let (mut ours, mut theirs) = secured_pair().await;
            let frames = frames(count, bytes);
            let expected: Vec<u8> = frames.iter().flat_map(|frame| frame.as_bytes().to_vec()).collect();
            let read = tokio::spawn(async move {
                let mut all = Vec::new();
                // An end that was not announced would be an error.
                theirs.read_to_end(&mut all).await.unwrap();
                all
            });
            write_all(&ours.split().1, &frames, Duration::MAX).await.unwrap();
            ours.hang_up().await;
            assert!(read.await.unwrap() == expected, "{count} frames of {bytes} bytes");
        }
    }

    #[tokio::test]
    async fn under_tls_all_has_left_when_it_counts_as_written() {
        let (mut ours, mut theirs) = secured_pair().await;
        let frames = frames(40, 1_000_000);
        let (_, writing) = ours.split();
        {
            let mut write = std::pin::pin!(write_all(&writing, &frames, Duration::MAX));
            assert!(futures_util::poll!(&mut write).is_pending(), "nobody reads");
            let mut all = 0;
            let mut bytes = vec![0; 256 * 1024];
            let total = frames.iter().map(|frame| frame.as_bytes().len()).sum::<usize>();
            let reading = async {
                while all < total {
                    all += theirs.read(&mut bytes).await.unwrap();
                }
            };
            let (written, ()) = tokio::join!(write, reading);
            written.unwrap();
        }
        assert!(writing.try_flush().is_ok());
    }

    #[tokio::test]
    async fn under_tls_a_client_that_does_not_read_is_given_up_too() {
        let (mut ours, _theirs) = secured_pair().await;
        let frames = frames(20, 1_000_000);
        assert!(write_all(&ours.split().1, &frames, Duration::from_millis(50)).await.is_err());
    }

    /// Takes ten bytes, and then none for a while.
    struct Slow {
        pause: Duration,
        rest: Mutex<Pin<Box<Sleep>>>,
        taken: AtomicUsize,
    }

    impl Sink for Slow {
        fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.rest.lock().unwrap().as_mut().poll(cx).map(Ok)
        }

        fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let mut rest = self.rest.lock().unwrap();
            if !rest.is_elapsed() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            rest.as_mut().reset(Instant::now() + self.pause);
            let taken = slices.iter().map(|slice| slice.len()).sum::<usize>().min(10);
            self.taken.fetch_add(taken, Ordering::Relaxed);
            Ok(taken)
        }

        fn try_flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_waited_for_and_one_that_takes_nothing_is_not() {
        let slow = |pause| Slow {
            pause: Duration::from_secs(pause),
            rest: Mutex::new(Box::pin(tokio::time::sleep(Duration::ZERO))),
            taken: AtomicUsize::new(0),
        };
        let patience = Duration::from_secs(50);
        let frames = frames(10, 100);
        let all = frames.iter().map(|frame| frame.as_bytes().len()).sum::<usize>();
        let reader = slow(40);
        assert!(write_all(&reader, &frames, patience).await.is_ok());
        assert_eq!(reader.taken.into_inner(), all);
        let reader = slow(60);
        assert!(write_all(&reader, &frames, patience).await.is_err());
        assert_eq!(reader.taken.into_inner(), 10);
    }
}
