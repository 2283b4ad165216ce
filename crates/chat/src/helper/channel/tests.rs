use super::super::wire;
use super::*;

/// A channel, and the child's end of it.
fn channel() -> (Arc<Channel>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let channel = Channel::new(ours, Arc::new(Helper::idle()), 1, 32, ChildPlace::only()).unwrap();
    theirs.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    (Arc::new(channel), theirs)
}

/// What the child was told and has not read yet.
fn told(mut child: &UnixStream) -> Vec<Record> {
    std::iter::from_fn(|| wire::read(&mut child).ok()).collect()
}

#[test]
fn sessions_that_never_moved_are_unknown_to_the_child() {
    let (channel, child) = channel();
    let first = Session::new(Arc::clone(&channel));
    let waiting: Vec<Session> = (0..1000).map(|_| first.clone()).collect();
    let mut one = waiting[0].clone();
    drop((first, waiting));
    assert_eq!(told(&child), []);

    one.ask();
    let number = one.number.unwrap();
    let ticket = one.asked.unwrap().ticket;
    assert_eq!(told(&child), [Record::new(Kind::Fork, ROOT, number), Record::new(Kind::Mask, number, ticket)]);
    one.accept(7);
    let mut copy = one.clone();
    drop(one);
    copy.ask();
    let (copied, ticket) = (copy.number.unwrap(), copy.asked.unwrap().ticket);
    let expected = [
        Record::new(Kind::Accept, number, 7),
        Record::new(Kind::Fork, number, copied),
        Record::new(Kind::Close, number, 0),
        Record::new(Kind::Mask, copied, ticket),
    ];
    assert_eq!(told(&child), expected);
}
