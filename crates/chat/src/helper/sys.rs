//! The four system calls that have no safe form, and nothing else that is unsafe.

use std::io;
use std::time::Duration;

use rustix::process::Pid;

/// Which of the two processes one is in.
pub(super) enum Forked {
    Parent(Pid),
    Child,
}

/// Copies this process, which must have one thread only: in the child, whatever lock another thread held would stay
/// locked for ever.
pub(super) fn fork() -> io::Result<Forked> {
    #[expect(unsafe_code, reason = "fork has no safe form")]
    // SAFETY: the helper starts no threads, so no lock is held by anyone else and the child may do whatever a process may.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid).filter(|_| pid > 0).map(Forked::Parent).ok_or_else(io::Error::last_os_error),
    }
}

/// Lets the signals that stop a server pass: those in flight still need masks. The helper ends with the server's end of
/// its socket. Whatever the server was started with, children that ended keep their numbers until they are waited for.
pub(super) fn set_signals() {
    #[expect(unsafe_code, reason = "signal has no safe form")]
    // SAFETY: the default runs no code of ours in a handler.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGPIPE] {
        #[expect(unsafe_code, reason = "signal has no safe form")]
        // SAFETY: ignoring a signal runs no code of ours in a handler.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

/// Time of computing that a process has used; `None` when it is gone.
pub(super) fn cpu_time(pid: i32) -> Option<Duration> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[expect(unsafe_code, reason = "clocks of other processes have no safe form")]
    // SAFETY: both calls write to the locals they are given, and to nothing else.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid, &raw mut clock) != 0 || libc::clock_gettime(clock, &raw mut time) != 0
    };
    (!failed).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}
