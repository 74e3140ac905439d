//! The system calls of this crate, and all of its `unsafe`.
//!
//! Everything above works with owned descriptors, slices and `io::Result`. A function here does one thing that the standard
//! library has no safe name for, and keeps its proof beside it. It knows nothing of keepers, commands or messages.
//!
//! Invariant: the functions marked "single-threaded" are called only in the spawn server and its keepers, which never start a
//! thread.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

pub(crate) mod fifo;

/// Most descriptors that travel with one message.
pub(crate) const FDS_MAX: usize = 8;

/// Stack of a new process between `clone` and `execve`, in bytes; its frames are a few hundred bytes, and `execve` uses none.
const LAUNCH_STACK_BYTES: usize = 64 * 1024;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The size of a page, bytes.
pub(crate) fn page_bytes() -> u64 {
    // SAFETY: a call without pointers.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

/// The kernel's clock ticks a second, in which it tells the CPU time of processes.
pub(crate) fn ticks_per_second() -> u64 {
    // SAFETY: a call without pointers.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks)
        .ok()
        .filter(|ticks| *ticks > 0)
        .unwrap_or(100)
}

/// Repeats a call that a signal interrupted.
pub(crate) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- messages

#[repr(align(8))]
struct ControlBuffer([u8; 64]);

/// Sends `bytes`, and `fds` with the first of them; answers how many bytes the kernel took.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    assert!(
        fds.len() <= FDS_MAX,
        "more descriptors than a message carries"
    );
    let mut control = ControlBuffer([0; 64]);
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr() as *mut c_void,
        iov_len: bytes.len(),
    };
    // SAFETY: all-zero bytes are a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let size = std::mem::size_of_val(fds) as u32;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute; `control` is aligned and large enough for FDS_MAX descriptors
        // (CMSG_SPACE(32) = 48), so the header and the data behind it lie inside it.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(size) as _;
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size) as _;
            std::ptr::copy_nonoverlapping(
                fds.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(header),
                size as usize,
            );
        }
    }
    // SAFETY: `message` points at `part` and `control`, which outlive the call; the kernel only reads `bytes`.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL) };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(sent as usize)
    }
}

/// How much of what was sent the other end has not read yet, bytes of the kernel's memory, as they count against `SO_SNDBUF` (`SIOCOUTQ`,
/// Linux, net/unix/af_unix.c). 0 where the kernel does not tell.
pub(crate) fn unread(socket: BorrowedFd<'_>) -> usize {
    let mut bytes: c_int = 0;
    // SAFETY: for a socket TIOCOUTQ is SIOCOUTQ, which writes one `int` to the pointer; `bytes` outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
    if result < 0 {
        return 0;
    }
    usize::try_from(bytes).unwrap_or(0)
}

/// Receives into `buffer`; descriptors that came along are added to `fds`, close-on-exec. Zero is the end of the stream.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut impl Extend<OwnedFd>,
    wait: bool,
) -> io::Result<usize> {
    let mut control = ControlBuffer([0; 64]);
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all-zero bytes are a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    let flags = libc::MSG_CMSG_CLOEXEC | if wait { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: the kernel writes at most `buffer.len()` bytes into `buffer` and 64 into `control`; both outlive the call.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the macros walk the headers that the kernel wrote into `control`; each descriptor in SCM_RIGHTS is new in
    // this process and owned by nobody else.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for index in 0..bytes / size_of::<RawFd>() {
                    fds.extend([OwnedFd::from_raw_fd(data.add(index).read_unaligned())]);
                }
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    Ok(received as usize)
}

// ------------------------------------------------------------------------------------------------------------ waiting

/// What `ppoll` watches: readable (`POLLIN`), hang-up is always told.
#[derive(Clone, Copy)]
pub(crate) struct Watch(libc::pollfd);

impl Watch {
    /// Watches for input; a negative descriptor is skipped.
    pub(crate) fn input(fd: RawFd) -> Watch {
        Watch(libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        })
    }

    /// Whether the last wait found input, a hang-up or an error.
    pub(crate) fn ready(&self) -> bool {
        self.0.revents != 0
    }
}

/// Waits for input, for a signal or for the time. `signals` opens the signals that `quiet_signals` closed, for the wait only.
/// Answers whether a descriptor is ready.
pub(crate) fn wait_input(
    watches: &mut [Watch],
    timeout: Option<Duration>,
    signals: bool,
) -> io::Result<bool> {
    for watch in watches.iter_mut() {
        watch.0.revents = 0;
    }
    let limit = timeout.map(|time| libc::timespec {
        tv_sec: time.as_secs().min(i32::MAX as u64) as libc::time_t,
        tv_nsec: time.subsec_nanos().into(),
    });
    let limit_pointer = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let mut open = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set; `Watch` is `pollfd` (a newtype over one field with its layout); all
    // pointers outlive the call.
    let ready = unsafe {
        libc::sigemptyset(open.as_mut_ptr());
        let mask = if signals {
            open.as_ptr()
        } else {
            std::ptr::null()
        };
        libc::ppoll(
            watches.as_mut_ptr().cast(),
            watches.len() as libc::nfds_t,
            limit_pointer,
            mask,
        )
    };
    match check(ready) {
        Ok(ready) => Ok(ready > 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// An epoll instance: readable descriptors by token.
pub(crate) struct Poller(OwnedFd);

impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        // SAFETY: no pointers; the descriptor is new and ours.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Poller(fd))
    }

    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: token,
        };
        // SAFETY: `event` outlives the call, which copies it.
        unsafe {
            check(libc::epoll_ctl(
                self.0.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                fd.as_raw_fd(),
                &mut event,
            ))?
        };
        Ok(())
    }

    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        // SAFETY: since Linux 2.6.9 the event pointer of EPOLL_CTL_DEL may be null.
        unsafe {
            libc::epoll_ctl(
                self.0.as_raw_fd(),
                libc::EPOLL_CTL_DEL,
                fd.as_raw_fd(),
                std::ptr::null_mut(),
            )
        };
    }

    /// Fills `tokens` with those that are ready.
    pub(crate) fn wait(&self, tokens: &mut Vec<u64>, timeout: Option<Duration>) -> io::Result<()> {
        const EVENTS: usize = 64;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        // Rounded up, so that a wait never ends before its time and spins.
        let limit = timeout.map_or(-1, |time| {
            time.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as c_int
        });
        tokens.clear();
        // SAFETY: the kernel writes at most EVENTS entries.
        let count = unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                EVENTS as c_int,
                limit,
            )
        };
        match check(count) {
            Ok(count) => tokens.extend(events[..count as usize].iter().map(|event| event.u64)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// A counter that wakes a poller.
pub(crate) fn event_fd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor is new and ours.
    unsafe {
        Ok(OwnedFd::from_raw_fd(check(libc::eventfd(
            0,
            libc::EFD_CLOEXEC | libc::EFD_NONBLOCK,
        ))?))
    }
}

/// Makes reads answer `WouldBlock` in place of waiting.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    unsafe {
        let flags = check(libc::fcntl(fd.as_raw_fd(), libc::F_GETFL))?;
        check(libc::fcntl(
            fd.as_raw_fd(),
            libc::F_SETFL,
            flags | libc::O_NONBLOCK,
        ))?;
    }
    Ok(())
}

// ------------------------------------------------------------------------------------------- the server's own process

/// Puts the null device in the place of descriptor 0 and answers what stood there. Single-threaded.
pub(crate) fn take_stdin(null: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: descriptor 0 was handed to this process by its parent and nothing else in it uses it; the duplicate is new.
    unsafe {
        let copy = OwnedFd::from_raw_fd(check(libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3))?);
        check(libc::dup2(null.as_raw_fd(), 0))?;
        Ok(copy)
    }
}

/// Forks. Answers the child's id in the parent, `None` in the child. Single-threaded.
pub(crate) fn fork() -> io::Result<Option<i32>> {
    // SAFETY: the process has one thread, so the child's copy of every lock and of the allocator is consistent.
    match check(unsafe { libc::fork() })? {
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// Ends this process without running the parent's exit handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Orphans among the descendants become children of this process.
pub(crate) fn become_subreaper() -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Leaves the terminal's foreground group, so that Ctrl-C there does not reach this process.
pub(crate) fn own_process_group() {
    // SAFETY: no pointers. A failure (already a leader) leaves what is wanted.
    unsafe { libc::setpgid(0, 0) };
}

/// Names this process in listings (15 bytes are kept).
pub(crate) fn set_name(name: &CStr) {
    // SAFETY: the kernel copies at most 16 bytes of a NUL-terminated string.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

extern "C" fn ignore_signal(_signal: c_int) {}

/// Keeps terminal and termination signals from ending this process, and closes all of them (SIGCHLD first) outside of
/// [`wait_input`]. They are handled, not ignored, so that `execve` gives children their default again, and one that was ignored
/// from the start (`nohup`) stays ignored. Answers the mask for children. Single-threaded.
pub(crate) fn quiet_signals() -> SignalMask {
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the sets and actions are initialised before use; the handler does nothing, so it is safe in signal context.
    unsafe {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        for signal in [
            libc::SIGHUP,
            libc::SIGINT,
            libc::SIGQUIT,
            libc::SIGTERM,
            libc::SIGTSTP,
            libc::SIGTTIN,
            libc::SIGTTOU,
            libc::SIGUSR1,
            libc::SIGUSR2,
            libc::SIGALRM,
            libc::SIGCHLD,
        ] {
            let mut old: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut old);
            if old.sa_sigaction == libc::SIG_IGN && signal != libc::SIGCHLD {
                continue;
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = ignore_signal as extern "C" fn(c_int) as usize;
            action.sa_flags = libc::SA_NOCLDSTOP;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
        let mut mask = before.assume_init();
        // A parent that blocks SIGCHLD or SIGTERM for its own loop does not mean its commands to.
        for signal in [
            libc::SIGCHLD,
            libc::SIGTERM,
            libc::SIGINT,
            libc::SIGHUP,
            libc::SIGPIPE,
        ] {
            libc::sigdelset(&mut mask, signal);
        }
        SignalMask(mask)
    }
}

/// The signal mask that children start with.
#[derive(Clone, Copy)]
pub(crate) struct SignalMask(libc::sigset_t);

// ------------------------------------------------------------------------------------------------------------ children

/// What a look at the children found.
pub(crate) enum Peek {
    /// This child has ended and can be reaped.
    Ended(i32),
    /// There are children, none has ended.
    Running,
    /// There is no child, so nothing at all below a subreaper.
    Nobody,
}

/// Looks for an ended child without reaping it.
pub(crate) fn peek_child() -> io::Result<Peek> {
    // SAFETY: all-zero bytes are a valid `siginfo_t`, and the kernel fills it; `si_pid` is valid for what waitid reports.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        match check(libc::waitid(libc::P_ALL, 0, &mut info, flags)) {
            Ok(_) if info.si_pid() == 0 => Ok(Peek::Running),
            Ok(_) => Ok(Peek::Ended(info.si_pid())),
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(Peek::Nobody),
            Err(error) => Err(error),
        }
    }
}

/// What the kernel counted for a reaped process and for the descendants it waited for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Reaped {
    pub(crate) status: i32,
    pub(crate) user_us: u64,
    pub(crate) system_us: u64,
    pub(crate) peak_rss_kib: u64,
    pub(crate) voluntary: u64,
    pub(crate) involuntary: u64,
}

/// Reaps an ended child.
pub(crate) fn reap(pid: i32) -> io::Result<Reaped> {
    // SAFETY: all-zero bytes are a valid `rusage`; status and usage outlive the call.
    unsafe {
        let mut status = 0;
        let mut usage: libc::rusage = std::mem::zeroed();
        retry(|| check(libc::wait4(pid, &mut status, 0, &mut usage)))?;
        let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
        Ok(Reaped {
            status,
            user_us: micros(usage.ru_utime),
            system_us: micros(usage.ru_stime),
            peak_rss_kib: usage.ru_maxrss as u64,
            voluntary: usage.ru_nvcsw as u64,
            involuntary: usage.ru_nivcsw as u64,
        })
    }
}

/// The exit code in a wait status, if the process exited.
pub(crate) fn exit_code(status: i32) -> Option<i32> {
    libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))
}

/// The signal in a wait status, if one ended the process, and whether a core was written.
pub(crate) fn end_signal(status: i32) -> Option<(i32, bool)> {
    libc::WIFSIGNALED(status).then(|| (libc::WTERMSIG(status), libc::WCOREDUMP(status)))
}

/// Whether a file is one that this process may execute, as far as can be told without doing it.
pub(crate) fn is_program(file: &CStr) -> bool {
    let path = Path::new(OsStr::from_bytes(file.to_bytes()));
    // SAFETY: the pointer is a NUL-terminated string.
    let may = || unsafe { libc::access(file.as_ptr(), libc::X_OK) } == 0;
    may() && std::fs::metadata(path).is_ok_and(|about| about.is_file())
}

/// A handle on a process that a reused id cannot redirect.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor is new, close-on-exec and ours.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(OwnedFd::from_raw_fd(fd as RawFd))
        }
    }
}

/// Signals the process behind a pidfd.
pub(crate) fn pidfd_signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null `siginfo` means the same as kill(2) would fill in.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<c_void>(),
            0,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A pipe whose reading end does not block; both ends close on exec.
pub(crate) fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = std::io::pipe()?;
    let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
    set_nonblocking(std::os::fd::AsFd::as_fd(&reader))?;
    Ok((reader, writer))
}

/// Reads what is there.
pub(crate) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes.
    let count = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    if count < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(count as usize)
    }
}

/// Where the new process stands relative to sessions and process groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    Session,
    Group,
    Join(i32),
}

/// Everything a new process is told before its program starts.
pub(crate) struct Plan<'a> {
    /// Tried in turn, as a search path is.
    pub(crate) programs: &'a [CString],
    pub(crate) argv: &'a [CString],
    pub(crate) env: &'a [CString],
    pub(crate) cwd: Option<&'a CString>,
    /// What becomes descriptor 0, 1 and 2; each is its own target or at least 3.
    pub(crate) fds: [RawFd; 3],
    /// What becomes which other descriptor; no source is another's target.
    pub(crate) others: &'a [(RawFd, RawFd)],
    pub(crate) standing: Standing,
    /// Added to the niceness of the server.
    pub(crate) nice: i32,
    pub(crate) sched_idle: bool,
    /// As `ioprio_set` takes it.
    pub(crate) io_priority: Option<i32>,
    pub(crate) affinity: &'a [u16],
    /// Resource, soft limit, hard limit.
    pub(crate) limits: &'a [(u32, u64, u64)],
    pub(crate) umask: Option<u32>,
}

/// The step at which a new process could not become its program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Step {
    Fork = 0,
    Session,
    Niceness,
    Scheduler,
    IoPriority,
    Affinity,
    Limit,
    Directory,
    Stdio,
    Exec,
}

impl Step {
    pub(crate) fn from_u8(value: u8) -> Option<Step> {
        use Step::{
            Affinity, Directory, Exec, Fork, IoPriority, Limit, Niceness, Scheduler, Session, Stdio,
        };
        [
            Fork, Session, Niceness, Scheduler, IoPriority, Affinity, Limit, Directory, Stdio, Exec,
        ]
        .get(value as usize)
        .copied()
    }
}

struct Launch<'a> {
    plan: &'a Plan<'a>,
    argv: *const *const c_char,
    env: *const *const c_char,
    cpus: Option<libc::cpu_set_t>,
    mask: libc::sigset_t,
    step: Step,
    errno: c_int,
}

/// A stack for new processes between `clone` and `execve`.
pub(crate) struct LaunchStack(Vec<u128>);

impl LaunchStack {
    pub(crate) fn new() -> LaunchStack {
        LaunchStack(vec![0; LAUNCH_STACK_BYTES / size_of::<u128>()])
    }
}

/// Starts a process. The address space is shared and the caller suspended until the program has replaced it or failed, so the
/// cost does not depend on the caller's size. Single-threaded.
///
/// # Errors
/// The step that failed and its errno; no process is left.
pub(crate) fn launch(
    plan: &Plan<'_>,
    mask: &SignalMask,
    stack: &mut LaunchStack,
) -> Result<i32, (Step, io::Error)> {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (argv, env) = (pointers(plan.argv), pointers(plan.env));
    let cpus = (!plan.affinity.is_empty()).then(|| {
        // SAFETY: all-zero bytes are the empty set; CPU_SET checks no bound itself, so larger numbers are left out here.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            for &cpu in plan.affinity {
                if usize::from(cpu) < libc::CPU_SETSIZE as usize {
                    libc::CPU_SET(cpu.into(), &mut set);
                }
            }
            set
        }
    });
    let mut launch = Launch {
        plan,
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        cpus,
        mask: mask.0,
        step: Step::Fork,
        errno: 0,
    };
    // SAFETY: `become_program` gets a pointer to `launch`, which lives on; CLONE_VFORK suspends this thread, the only one,
    // until the child has called execve or _exit, so nothing is accessed by both at once. The child runs on its own stack,
    // whose top is 16-byte aligned, allocates nothing, and ends in execve or _exit, never by returning through our frames.
    // All signals are closed here (`quiet_signals`), so no handler runs in the child before its program.
    let pid = unsafe {
        let top = stack.0.as_mut_ptr().add(stack.0.len()).cast::<c_void>();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        libc::clone(
            become_program,
            top,
            flags,
            std::ptr::from_mut(&mut launch).cast(),
        )
    };
    if pid < 0 {
        return Err((Step::Fork, io::Error::last_os_error()));
    }
    // The child wrote through a pointer the compiler does not follow.
    let (step, errno) = outcome_of(&launch);
    if errno != 0 {
        let _ = reap(pid);
        return Err((step, io::Error::from_raw_os_error(errno)));
    }
    Ok(pid)
}

fn outcome_of(launch: &Launch<'_>) -> (Step, c_int) {
    let launch = std::hint::black_box(launch);
    (launch.step, launch.errno)
}

extern "C" fn become_program(argument: *mut c_void) -> c_int {
    // SAFETY: `launch` passes a pointer to its `Launch`, alive and unused by anybody else until this process execs or exits.
    let launch = unsafe { &mut *argument.cast::<Launch<'_>>() };
    // SAFETY: see `prepare_and_exec`.
    let (step, errno) = unsafe { prepare_and_exec(launch) };
    launch.step = step;
    launch.errno = errno;
    exit_now(127)
}

/// Runs in the new process; comes back only with a failure.
///
/// # Safety
/// Only in a new process that shares memory with its suspended parent: system calls, no allocation, no locks, and all pointers
/// in `launch` alive.
unsafe fn prepare_and_exec(launch: &Launch<'_>) -> (Step, c_int) {
    let plan = launch.plan;
    macro_rules! step {
        ($step:expr, $call:expr) => {
            // SAFETY: plain system calls over values and pointers that `launch` keeps alive.
            if unsafe { $call } < 0 {
                return ($step, errno());
            }
        };
    }
    match plan.standing {
        Standing::Session => step!(Step::Session, libc::setsid()),
        Standing::Group => step!(Step::Session, libc::setpgid(0, 0)),
        Standing::Join(group) => step!(Step::Session, libc::setpgid(0, group)),
    }
    if plan.nice != 0 {
        // SAFETY: no pointers. getpriority may answer -1 rightly; an error cannot happen for oneself.
        let now = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        step!(
            Step::Niceness,
            libc::setpriority(libc::PRIO_PROCESS, 0, (now + plan.nice).clamp(-20, 19))
        );
    }
    if plan.sched_idle {
        let parameter = libc::sched_param { sched_priority: 0 };
        step!(
            Step::Scheduler,
            libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameter)
        );
    }
    if let Some(priority) = plan.io_priority {
        const WHO_PROCESS: c_int = 1;
        step!(
            Step::IoPriority,
            libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority)
        );
    }
    if let Some(cpus) = &launch.cpus {
        step!(
            Step::Affinity,
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), cpus)
        );
    }
    if let Some(mask) = plan.umask {
        // SAFETY: no pointers.
        unsafe { libc::umask(mask) };
    }
    if let Some(directory) = plan.cwd {
        step!(Step::Directory, libc::chdir(directory.as_ptr()));
    }
    for (target, &source) in plan.fds.iter().enumerate() {
        if source != target as RawFd {
            step!(Step::Stdio, libc::dup2(source, target as c_int));
        }
    }
    for &(source, target) in plan.others {
        step!(Step::Stdio, libc::dup2(source, target));
    }
    for &(resource, soft, hard) in plan.limits {
        let limit = libc::rlimit {
            rlim_cur: soft,
            rlim_max: hard,
        };
        step!(Step::Limit, libc::setrlimit(resource as _, &limit));
    }
    // Rust programs start with SIGPIPE ignored; commands expect its default.
    // SAFETY: all-zero bytes are the default action without flags.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGPIPE, &default, std::ptr::null_mut());
        if plan.standing == Standing::Group {
            // A background group that reads the terminal would be stopped, and nobody there to let it go on.
            let mut ignore = default;
            ignore.sa_sigaction = libc::SIG_IGN;
            libc::sigaction(libc::SIGTTIN, &ignore, std::ptr::null_mut());
            libc::sigaction(libc::SIGTTOU, &ignore, std::ptr::null_mut());
        }
        libc::sigprocmask(libc::SIG_SETMASK, &launch.mask, std::ptr::null_mut());
    }
    // As execvp: go on where a candidate is not there, and remember that one was there but not allowed.
    let mut failure = libc::ENOENT;
    for program in plan.programs {
        // SAFETY: the pointers are NUL-terminated strings and null-terminated arrays of them.
        unsafe { libc::execve(program.as_ptr(), launch.argv, launch.env) };
        match errno() {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => failure = libc::EACCES,
            other => return (Step::Exec, other),
        }
    }
    (Step::Exec, failure)
}

fn errno() -> c_int {
    // SAFETY: the pointer is this thread's errno, always valid.
    unsafe { *libc::__errno_location() }
}
