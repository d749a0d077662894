//! A client's connection, with TLS or without.
//!
//! A WebSocket is read and written by one task in turns, through two halves of the same connection. Without TLS they are
//! the system's own and cost nothing more. With TLS they share what the protocol has to remember.

use std::future::Future;
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustls::ServerConnection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, tcp};
use tokio_rustls::server::TlsStream;

/// A connection that speaks HTTP.
pub(crate) enum HttpStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl HttpStream {
    /// The same connection, to go on as a WebSocket.
    pub(crate) fn into_stream(self) -> Stream {
        match self {
            Self::Plain(stream) => Stream::Plain(stream),
            Self::Tls(stream) => {
                let (tcp, session) = stream.into_inner();
                Stream::Tls(Box::new(Secured { tcp, session: Mutex::new(session) }))
            }
        }
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A connection that is a WebSocket.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<Secured>),
}

/// What a task reads from.
pub(crate) enum ReadHalf<'a> {
    Plain(tcp::ReadHalf<'a>),
    Tls(&'a Secured),
}

/// What the same task writes to.
pub(crate) enum WriteHalf<'a> {
    Plain(tcp::WriteHalf<'a>),
    Tls(&'a Secured),
}

impl Stream {
    /// Both halves. They are for one task: each remembers one waker.
    pub(crate) fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        match self {
            Self::Plain(stream) => {
                let (reading, writing) = stream.split();
                (ReadHalf::Plain(reading), WriteHalf::Plain(writing))
            }
            Self::Tls(secured) => (ReadHalf::Tls(secured), WriteHalf::Tls(secured)),
        }
    }

    /// Says that nothing more will be sent, then reads past what the client still sends until it closes too.
    pub(crate) async fn hang_up(&mut self) {
        let tcp = match self {
            Self::Plain(stream) => stream,
            Self::Tls(secured) => {
                let _ = secured.say_goodbye().await;
                &mut secured.tcp
            }
        };
        let _ = tcp.shutdown().await;
        let mut rest = vec![0; 4096];
        while matches!(tcp.read(&mut rest).await, Ok(read) if read > 0) {}
    }
}

impl ReadHalf<'_> {
    /// Reads what has come to the end of `buffer`, for which up to `room` bytes are reserved only when there is
    /// something. Nothing is the end.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => {
                ready!(stream.as_ref().poll_read_ready(cx))?;
                buffer.reserve(room);
                std::pin::pin!(stream.read_buf(buffer)).poll(cx)
            }
            Self::Tls(secured) => secured.poll_read(cx, buffer, room),
        }
    }
}

impl WriteHalf<'_> {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream.as_ref(),
            Self::Tls(secured) => &secured.tcp,
        }
    }

    /// Ready when trying again may help.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp().poll_write_ready(cx)
    }

    /// Takes what it can at once and says how many bytes; with TLS some of them may wait for [`Self::try_flush`].
    pub(crate) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => match slices {
                [only] => stream.as_ref().try_write(only),
                several => stream.as_ref().try_write_vectored(several),
            },
            Self::Tls(secured) => secured.try_write(slices),
        }
    }

    /// Hands the system what was taken and waits; [`io::ErrorKind::WouldBlock`] while some of it still does.
    pub(crate) fn try_flush(&self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(secured) => flush(&secured.tcp, &mut secured.session()),
        }
    }
}

/// A connection under TLS. The lock is never waited for: both halves belong to one task.
pub(crate) struct Secured {
    tcp: TcpStream,
    session: Mutex<ServerConnection>,
}

impl Secured {
    fn session(&self) -> MutexGuard<'_, ServerConnection> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut, room: usize) -> Poll<io::Result<usize>> {
        let mut session = self.session();
        loop {
            match session.reader().fill_buf() {
                Ok(text) => {
                    let read = text.len().min(room);
                    buffer.extend_from_slice(&text[..read]);
                    session.reader().consume(read);
                    return Poll::Ready(Ok(read));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            // It also takes from the task's budget, so that no stream of empty records keeps others waiting.
            ready!(self.tcp.poll_read_ready(cx))?;
            match session.read_tls(&mut Raw(&self.tcp)) {
                // The end is for the reader to judge: it knows whether it was announced.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Poll::Ready(Err(error)),
            }
            let processed = session.process_new_packets();
            // An alert that says why, or the answer to a new key. What does not go now goes with the next frame.
            let _ = flush(&self.tcp, &mut session);
            if let Err(error) = processed {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
        }
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut session = self.session();
        // What was sealed before goes first: only so much of it ever waits.
        flush(&self.tcp, &mut session)?;
        let taken = session.writer().write_vectored(slices)?;
        match flush(&self.tcp, &mut session) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Without it the client could not tell an end from a cut.
    async fn say_goodbye(&self) -> io::Result<()> {
        self.session().send_close_notify();
        loop {
            let flushed = flush(&self.tcp, &mut self.session());
            match flushed {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.tcp.writable().await?,
                other => return other,
            }
        }
    }
}

/// Hands sealed bytes to the system until none are left.
fn flush(tcp: &TcpStream, session: &mut ServerConnection) -> io::Result<()> {
    while session.wants_write() {
        if session.write_tls(&mut Raw(tcp))? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

/// The socket as rustls wants it.
struct Raw<'a>(&'a TcpStream);

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
