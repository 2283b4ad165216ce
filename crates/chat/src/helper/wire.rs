//! What server, helper and children say to each other: records of one size, some with a payload behind them.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

/// Bytes of a record.
pub(super) const RECORD: usize = 17;
/// The grammar at its beginning, in its child; sessions are copies of it.
pub(super) const ROOT: u64 = 0;

/// A kind and two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub kind: Kind,
    pub first: u64,
    pub second: u64,
}

/// Meaning of a record, with that of its two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    // Server to helper.
    /// Bytes of `tokenizer.json`, which follow; the model's vocabulary.
    Tokenizer,
    /// A token that ends answers; how many more follow.
    EndToken,
    /// Number of the child to start; its socket goes with the record.
    Start,
    /// Number of the child to kill.
    Kill,
    // Server to child.
    /// Bytes of the source, which follow.
    Source,
    /// A session to copy, the copy's number.
    Fork,
    /// Session, token.
    Accept,
    /// Session, number of tokens.
    Rollback,
    /// Session that is over.
    Close,
    /// Session, ticket.
    Mask,
    // Child to server.
    /// Its process id.
    Hello,
    /// It has done some of what it was told, and goes on.
    Working,
    /// The grammar was compiled.
    Compiled,
    /// Why it was not: bytes of a text, which follow.
    Refused,
    /// Ticket, bytes of the mask, which follow; none in a dead end.
    Masked,
}

const KINDS: [Kind; 15] = [
    Kind::Tokenizer,
    Kind::EndToken,
    Kind::Start,
    Kind::Kill,
    Kind::Source,
    Kind::Fork,
    Kind::Accept,
    Kind::Rollback,
    Kind::Close,
    Kind::Mask,
    Kind::Hello,
    Kind::Working,
    Kind::Compiled,
    Kind::Refused,
    Kind::Masked,
];

impl Record {
    pub fn new(kind: Kind, first: u64, second: u64) -> Self {
        Self { kind, first, second }
    }

    pub fn to_bytes(self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[0] = self.kind as u8;
        bytes[1..9].copy_from_slice(&self.first.to_le_bytes());
        bytes[9..].copy_from_slice(&self.second.to_le_bytes());
        bytes
    }

    /// `None` for a kind that there is not.
    pub fn from_bytes(bytes: [u8; RECORD]) -> Option<Self> {
        let number = |from: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[from + index]));
        let kind = KINDS.into_iter().find(|kind| *kind as u8 == bytes[0])?;
        Some(Self { kind, first: number(1), second: number(9) })
    }
}

/// The next record of a stream.
pub(super) fn read(stream: &mut impl Read) -> io::Result<Record> {
    let mut bytes = [0; RECORD];
    stream.read_exact(&mut bytes)?;
    Record::from_bytes(bytes).ok_or_else(unknown)
}

/// What follows a record.
pub(super) fn read_payload(stream: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Sends the helper an order, without waiting: one that does not read them is sick.
pub(super) fn send_order(control: impl AsFd, order: Record, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let bytes = order.to_bytes();
    let sockets: Vec<BorrowedFd<'_>> = socket.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&sockets));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = rustix::net::sendmsg(control, &[IoSlice::new(&bytes)], &mut ancillary, flags)?;
    if sent == RECORD { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// The next order; `None` when the server is gone.
pub(super) fn receive_order(control: impl AsFd) -> io::Result<Option<(Record, Option<OwnedFd>)>> {
    let mut bytes = [0; RECORD];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let received = rustix::net::recvmsg(control, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let socket = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    let order = Record::from_bytes(bytes).filter(|_| received.bytes == RECORD).ok_or_else(unknown)?;
    Ok(Some((order, socket)))
}

fn unknown() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not what a server of this program says")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn records_survive_the_way() {
        for (index, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
            let record = Record::new(kind, u64::MAX - 1, 7);
            assert_eq!(Record::from_bytes(record.to_bytes()), Some(record));
        }
        let mut bytes = Record::new(Kind::Masked, 1, 2).to_bytes();
        bytes[0] += 1;
        assert_eq!(Record::from_bytes(bytes), None);
    }

    #[test]
    fn sockets_go_with_their_order_only() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (given, kept) = UnixStream::pair().unwrap();
        let (start, kill) = (Record::new(Kind::Start, 1, 0), Record::new(Kind::Kill, 1, 0));
        send_order(&ours, kill, None).unwrap();
        send_order(&ours, start, Some(given.as_fd())).unwrap();
        drop(given);
        let (order, socket) = receive_order(&theirs).unwrap().unwrap();
        assert!(order == kill && socket.is_none());
        let (order, socket) = receive_order(&theirs).unwrap().unwrap();
        assert_eq!(order, start);
        io::Write::write_all(&mut UnixStream::from(socket.unwrap()), b"x").unwrap();
        let mut byte = [0];
        (&kept).read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
        drop(ours);
        assert!(receive_order(&theirs).unwrap().is_none());
    }

    #[test]
    fn payloads_end_where_they_say() {
        assert_eq!(read_payload(&mut &b"abc"[..], 2).unwrap(), b"ab");
        assert!(read_payload(&mut &b"abc"[..], u64::MAX).is_err());
    }
}
