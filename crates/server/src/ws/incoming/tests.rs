use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketContext};

use super::*;

/// A client's frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..126 => bytes.push(0x80 | short as u8),
        medium @ 126..65_536 => {
            bytes.push(0xfe);
            bytes.extend((medium as u16).to_be_bytes());
        }
        long => {
            bytes.push(0xff);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    bytes
}

fn text(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes())
}

fn believed() -> Incoming {
    let mut incoming = Incoming::new(&[]);
    incoming.believe(1_000_000);
    incoming
}

/// What is heard when the bytes come in pieces of this size, and how it ends.
fn hear(incoming: &mut Incoming, bytes: &[u8], piece: usize) -> (Vec<Heard>, Option<Misread>) {
    let mut heard = Vec::new();
    for piece in bytes.chunks(piece) {
        if let Err(misread) = incoming.allow(piece.len()) {
            return (heard, Some(misread));
        }
        incoming.buffer.extend_from_slice(piece);
        loop {
            match incoming.take() {
                Ok(Some(next)) => heard.push(next),
                Ok(None) => break,
                Err(misread) => return (heard, Some(misread)),
            }
        }
    }
    (heard, None)
}

fn ends(bytes: &[u8]) -> Option<Misread> {
    hear(&mut believed(), bytes, usize::MAX).1
}

#[test]
fn messages_are_the_same_however_their_bytes_arrive() {
    let long = "ä".repeat(70_000);
    let bytes = [
        text(""),
        text("short"),
        frame(0x01, "ge".as_bytes()),
        frame(0x89, b"in between"),
        frame(0x00, "t\u{e4}".as_bytes()[..2].as_ref()),
        frame(0x80, "\u{e4}ilt".as_bytes()[1..].as_ref()),
        text(&"x".repeat(300)),
        text(&long),
        frame(0x8a, b""),
        frame(0x82, &[0xff]),
        frame(0x88, &[&1000_u16.to_be_bytes()[..], b"bye"].concat()),
    ]
    .concat();
    let bye = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
    let expected = [
        Heard::Text("".into()),
        Heard::Text("short".into()),
        Heard::Ping(Bytes::from_static(b"in between")),
        Heard::Text("getäilt".into()),
        Heard::Text("x".repeat(300).into()),
        Heard::Text(long.into()),
        Heard::Pong,
        Heard::Binary,
        Heard::Close(Some(bye)),
    ];
    for piece in [1, 2, 3, 7, 4096, usize::MAX] {
        let (heard, end) = hear(&mut believed(), &bytes, piece);
        assert!(heard == expected && end.is_none(), "in pieces of {piece}");
    }
}

#[test]
fn what_breaks_the_protocol_is_refused() {
    let unmasked = [0x81, 2, b'h', b'i'];
    assert_eq!(ends(&unmasked), Some(Misread::Protocol));
    for first in [0xc1, 0xa1, 0x91, 0x83, 0x8b, 0x80] {
        assert_eq!(ends(&frame(first, b"x")), Some(Misread::Protocol), "{first:x}");
    }
    assert_eq!(ends(&frame(0x09, b"")), Some(Misread::Protocol), "a control frame in fragments");
    assert_eq!(ends(&frame(0x89, &[0; 126])), Some(Misread::Protocol), "a long control frame");
    assert_eq!(ends(&frame(0x88, &[3])), Some(Misread::Protocol), "half a code");
    assert_eq!(ends(&[frame(0x01, b"a"), text("b")].concat()), Some(Misread::Protocol), "a message within another");
    assert_eq!(ends(&frame(0x81, &[0xff])), Some(Misread::NotUtf8));
    assert_eq!(ends(&frame(0x88, &[3, 232, 0xff])), Some(Misread::NotUtf8));
}

#[test]
fn a_close_frame_that_says_what_it_may_not_is_answered_with_1002() {
    let (heard, _) = hear(&mut believed(), &frame(0x88, &1005_u16.to_be_bytes()), 100);
    let answer = CloseFrame { code: CloseCode::Protocol, reason: "Protocol violation".into() };
    assert_eq!(heard, [Heard::Close(Some(answer))]);
    assert_eq!(hear(&mut believed(), &frame(0x88, b""), 100).0, [Heard::Close(None)]);
}

#[test]
fn random_bytes_end_as_they_do_in_the_library_and_in_pieces_as_in_one() {
    // A small generator of our own: the same bytes in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    'cases: for _ in 0..5_000 {
        let mut bytes = Vec::new();
        for _ in 0..=random() % 5 {
            let first = [0x81, 0x01, 0x00, 0x80, 0x89, 0x8a, 0x82, random() as u8][(random() % 8) as usize];
            let payload: Vec<u8> = (0..random() % 9).map(|_| (random() % 130) as u8).collect();
            bytes.extend(frame(first, &payload));
            if random() % 16 == 0 {
                let at = (random() as usize) % bytes.len();
                bytes[at] ^= 1 << (random() % 8);
            }
        }
        let whole = hear(&mut believed(), &bytes, usize::MAX);
        let piece = 1 + (random() % 9) as usize;
        assert!(hear(&mut believed(), &bytes, piece) == whole, "in pieces of {piece}: {bytes:x?}");
        let narrow = |piece| {
            let mut incoming = Incoming::new(&[]);
            incoming.believe(12);
            hear(&mut incoming, &bytes, piece)
        };
        assert!(narrow(piece) == narrow(usize::MAX), "in pieces of {piece}, to the limit: {bytes:x?}");
        let (ours, end) = whole;
        let mut library = WebSocketContext::new(Role::Server, None);
        let mut stream = OneWay(Cursor::new(bytes.clone()));
        let mut theirs = Vec::new();
        let fails = loop {
            match library.read(&mut stream) {
                Ok(message) => {
                    let closes = message.is_close();
                    theirs.push(message);
                    if closes {
                        break false;
                    }
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    break false;
                }
                // The library judges a text fragment by fragment, we when it is whole.
                Err(Error::Utf8(_)) => continue 'cases,
                Err(_) => break true,
            }
        };
        let closed = ours.iter().position(|heard| matches!(heard, Heard::Close(_)));
        let ours: Vec<&Heard> = ours.iter().take(closed.map_or(usize::MAX, |at| at + 1)).collect();
        assert_eq!(ours.len(), theirs.len(), "{bytes:x?}");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let same = match (ours, theirs) {
                (Heard::Text(ours), Message::Text(theirs)) => ours == theirs,
                (Heard::Ping(ours), Message::Ping(theirs)) => ours == theirs,
                (Heard::Close(ours), Message::Close(theirs)) => ours == theirs,
                (Heard::Binary, Message::Binary(_)) | (Heard::Pong, Message::Pong(_)) => true,
                _ => false,
            };
            assert!(same, "{ours:?} {theirs:?} {bytes:x?}");
        }
        assert!(closed.is_some() || end.is_some() == fails, "{end:?} {fails} {bytes:x?}");
    }
}

/// Bytes to read, after which none are there yet; what is written is lost.
struct OneWay(Cursor<Vec<u8>>);

impl io::Read for OneWay {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match io::Read::read(&mut self.0, buf)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl io::Write for OneWay {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stranger_may_send_one_frame_of_the_limit_and_no_more() {
    let most = "x".repeat(MAX_STRANGER_FRAME);
    let (heard, end) = hear(&mut Incoming::new(&[]), &text(&most), 4096);
    assert!(heard.len() == 1 && end.is_none());
    // The header alone is enough.
    let over = text(&"x".repeat(MAX_STRANGER_FRAME + 1));
    assert_eq!(hear(&mut Incoming::new(&[]), &over[..14], 4096).1, Some(Misread::StrangerTooBig));
    let huge = [&[0x81, 0xff][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
    assert_eq!(hear(&mut Incoming::new(&[]), &huge, 4096).1, Some(Misread::StrangerTooBig));
    let fragments = [frame(0x01, &vec![b'x'; 60_000]), frame(0x80, &vec![b'x'; 6_000])].concat();
    assert_eq!(hear(&mut Incoming::new(&[]), &fragments, 4096).1, Some(Misread::StrangerTooBig));
    let pings = frame(0x89, &[0; 100]).repeat(700);
    assert_eq!(hear(&mut Incoming::new(&[]), &pings, 4096).1, Some(Misread::StrangerTooBig));
}

#[test]
fn a_believed_client_may_send_messages_up_to_its_limit() {
    let fragment = |first| frame(first, &vec![b'x'; 500_000]);
    let most = [fragment(0x01), fragment(0x80)].concat();
    assert_eq!(ends(&most), None);
    let over = [fragment(0x01), fragment(0x00), frame(0x80, b"x")].concat();
    assert_eq!(ends(&over), Some(Misread::TooBig));
    assert_eq!(ends(&frame(0x81, &vec![b'x'; 1_000_001])), Some(Misread::TooBig));
}

#[tokio::test]
async fn whoever_has_said_all_holds_no_memory_and_an_announced_frame_takes_none() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut theirs = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut ours, _) = listener.accept().await.unwrap();
    let mut ours = ReadHalf::Plain(ours.split().0);
    let mut incoming = believed();
    let said = "x".repeat(900_000);
    theirs.write_all(&text(&said)).await.unwrap();
    assert!(incoming.next(&mut ours).await.unwrap() == Heard::Text(said.as_str().into()));
    {
        let mut next = std::pin::pin!(incoming.next(&mut ours));
        assert!(futures_util::poll!(&mut next).is_pending());
    }
    assert_eq!(incoming.buffer.capacity(), 0);
    theirs.write_all(&text(&said)[..100]).await.unwrap();
    let ReadHalf::Plain(tcp) = &ours else { unreachable!() };
    tcp.readable().await.unwrap();
    {
        let mut next = std::pin::pin!(incoming.next(&mut ours));
        assert!(futures_util::poll!(&mut next).is_pending());
    }
    assert!(incoming.buffer.capacity() <= LARGE_READ + SMALL_READ, "{}", incoming.buffer.capacity());
    theirs.write_all(&text(&said)[100..]).await.unwrap();
    assert!(incoming.next(&mut ours).await.unwrap() == Heard::Text(said.as_str().into()));
    drop(theirs);
    assert_eq!(incoming.next(&mut ours).await, Err(Misread::Gone));
}
