use std::process::{Child, Command};

use super::super::wire;
use super::*;

/// A channel, and the child's end of it.
fn channel() -> (Arc<Channel>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let channel = Channel::new(ours, Arc::new(Helper::idle()), 1, 32, ChildPlace::only()).unwrap();
    theirs.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    (Arc::new(channel), theirs)
}

/// A channel whose child was ended.
pub(in crate::helper) fn broken_channel(is_too_slow: bool) -> Arc<Channel> {
    let channel = channel().0;
    channel.lock().is_too_slow = is_too_slow;
    channel.kill();
    channel
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

/// A process that may stand for the child's computing; it ends with this.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Asks for 40 masks at once, of which one comes whenever `pause` has passed by `clock`, which is given the process.
/// Returns how many came, and whether the child was found too slow.
fn step(program: &str, arguments: &[&str], pause: Duration, clock: impl Fn(i32) -> Duration + Send) -> (usize, bool) {
    let (channel, child) = channel();
    let process = Process(Command::new(program).args(arguments).spawn().unwrap());
    let pid = process.0.id();
    (&child).write_all(&Record::new(Kind::Hello, pid.into(), 0).to_bytes()).unwrap();
    let mut sessions = vec![Session::new(Arc::clone(&channel)); 40];
    sessions.iter_mut().for_each(Session::ask);
    let answer = move || {
        for record in told(&child).into_iter().filter(|record| record.kind == Kind::Mask) {
            let began = clock(pid as i32);
            while clock(pid as i32) < began + pause {
                std::thread::sleep(Duration::from_millis(5));
            }
            let masked = Record::new(Kind::Masked, record.second, 4).to_bytes();
            if (&child).write_all(&[&masked[..], &1_u32.to_le_bytes()].concat()).is_err() {
                return;
            }
        }
    };
    let num_masks = std::thread::scope(|scope| {
        scope.spawn(answer);
        sessions.iter_mut().filter_map(Session::mask).count()
    });
    (num_masks, channel.is_too_slow())
}

#[test]
fn the_masks_of_a_step_share_a_bound_of_computing() {
    let computed = |pid| sys::cpu_time(pid).unwrap();
    let (num_masks, is_too_slow) = step("sh", &["-c", "while :; do :; done"], Duration::from_millis(120), computed);
    assert!(is_too_slow && (1..40).contains(&num_masks), "{num_masks}");
    // Waiting is not computing.
    let start = Instant::now();
    assert_eq!(step("sleep", &["100"], Duration::from_millis(60), |_| start.elapsed()), (40, false));
}
