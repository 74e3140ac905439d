//! What the benchmark asks the kernel directly: clocks, precise sleeps, scheduling policies.
//!
//! The benchmark does not use flyball's own clocks, so that a fault in them cannot hide in the figures. All `unsafe`
//! of this crate but the counting allocator's stands here.

use std::ffi::CString;
use std::io;
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid, writable timespec for the length of the call.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// CPU time of the calling thread, nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time of this process, all threads, nanoseconds.
pub fn process_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Asks what this process used and lets the answer go: the cost of asking.
pub fn ask_rusage() {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the pointer is valid and writable for the length of the call; the answer is not read.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    std::hint::black_box(&usage);
}

/// Sleeps until CLOCK_MONOTONIC reads `deadline_ns`.
pub fn sleep_until_ns(deadline_ns: u64) {
    let time = libc::timespec {
        tv_sec: (deadline_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (deadline_ns % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: `time` is valid for the call; an absolute sleep needs no remainder, so the last pointer may be null.
    while unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &time,
            std::ptr::null_mut(),
        )
    } == libc::EINTR
    {}
}

/// Makes the calling thread an instrument: timers without slack, and, where the process may, real-time priority, so that
/// the load it sends leaves on time whatever is being measured. Returns whether real-time priority was granted.
pub fn become_instrument() -> bool {
    let parameter = libc::sched_param { sched_priority: 1 };
    // SAFETY: both calls concern the calling thread only and read `parameter`, which outlives them.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong, 0, 0, 0);
        libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameter) == 0
    }
}

/// Puts the calling thread under SCHED_IDLE.
pub fn become_idle_class() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: concerns the calling thread only and reads `parameter`, which outlives the call.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets the niceness of the calling thread (Linux: PRIO_PROCESS with a thread id means that thread).
pub fn nice_thread(niceness: i32) -> io::Result<()> {
    // SAFETY: plain system calls without pointers.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t, niceness) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Asks the kernel to kill this process when the thread that started it ends.
pub fn die_with_parent() {
    // SAFETY: a prctl without pointers.
    unsafe {
        libc::prctl(
            libc::PR_SET_PDEATHSIG,
            libc::SIGKILL as libc::c_ulong,
            0,
            0,
            0,
        )
    };
}

/// Starts a process that the kernel kills when the calling thread ends.
pub fn spawn_bound(command: &mut Command) -> io::Result<Child> {
    let bind = || {
        die_with_parent();
        Ok(())
    };
    // SAFETY: between fork and exec only prctl is called, which allocates nothing and takes no lock.
    unsafe { command.pre_exec(bind) }.spawn()
}

/// Sends SIGTERM to a process that the caller started and has not yet waited for.
pub fn ask_to_end(pid: u32) -> io::Result<()> {
    // SAFETY: a plain system call without pointers.
    match unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until one of the files can be read, at most `timeout_ns`, and tells which can.
pub fn wait_readable(files: &[BorrowedFd<'_>], timeout_ns: u64) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> = files
        .iter()
        .map(|file| libc::pollfd {
            fd: file.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let timeout = libc::timespec {
        tv_sec: (timeout_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (timeout_ns % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: the array has as many elements as it is said to have and is writable; the timeout outlives the call; without a
    // mask the signals stay as they are.
    let ready = unsafe {
        libc::ppoll(
            polled.as_mut_ptr(),
            polled.len() as libc::nfds_t,
            &timeout,
            std::ptr::null(),
        )
    };
    if ready < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(polled.iter().map(|file| file.revents != 0).collect())
}

/// Watches many files for something to read, level-triggered.
pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new() -> io::Result<Self> {
        // SAFETY: a plain system call without pointers.
        match unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) } {
            // SAFETY: the call has just made this descriptor, and nobody else has it.
            file if file >= 0 => Ok(Epoll(unsafe { OwnedFd::from_raw_fd(file) })),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Watches a file, which must stay open as long as it is watched; `number` is told when it can be read.
    pub fn add(&self, file: BorrowedFd<'_>, number: usize) -> io::Result<()> {
        self.control(file, number, libc::EPOLLIN)
    }

    fn control(&self, file: BorrowedFd<'_>, number: usize, events: libc::c_int) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: number as u64,
        };
        // SAFETY: both descriptors are open, and `event` outlives the call.
        let added = unsafe {
            libc::epoll_ctl(
                self.0.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                file.as_raw_fd(),
                &mut event,
            )
        };
        match added {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Watches a file for whatever comes: each time that it can be read or written after it could not, `number` is told once.
    pub fn add_edges(&self, file: BorrowedFd<'_>, number: usize) -> io::Result<()> {
        self.control(
            file,
            number,
            libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET,
        )
    }

    /// Waits at most so long and puts the numbers of the files that can be read into `ready`.
    pub fn wait(&self, ready: &mut Vec<usize>, timeout_ms: i32) -> io::Result<()> {
        const MOST: usize = 256;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; MOST];
        ready.clear();
        // SAFETY: the array is writable and has as many elements as it is said to have.
        let count = unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                MOST as i32,
                timeout_ms,
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(()),
                _ => Err(error),
            };
        }
        ready.extend(events.iter().take(count as usize).map(|event| {
            let number = event.u64;
            number as usize
        }));
        Ok(())
    }
}

/// Begins to connect to an address of IPv4 and does not wait for that. What is written before is refused as one that would block.
pub fn connect(to: SocketAddrV4) -> io::Result<TcpStream> {
    // SAFETY: a plain system call without pointers.
    let file = unsafe {
        libc::socket(
            libc::AF_INET,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            0,
        )
    };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor, and nobody else has it.
    let stream = unsafe { TcpStream::from_raw_fd(file) };
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*to.ip()).to_be(),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: the pointer is to an address of the size that is told, which outlives the call.
    let connected = unsafe {
        libc::connect(
            file,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_in>() as libc::socklen_t,
        )
    };
    let error = io::Error::last_os_error();
    if connected != 0 && error.raw_os_error() != Some(libc::EINPROGRESS) {
        return Err(error);
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Lets this process have as many files open as it may; how many that is.
pub fn allow_files() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is valid and writable for the length of the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is valid for the length of the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
        0 => Ok(limit.rlim_cur),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the folder is in memory, where a sync costs nothing.
pub fn is_in_memory(folder: &Path) -> io::Result<bool> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    let mut found = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path ends with NUL, and `found` is writable for the length of the call.
    if unsafe { libc::statfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeros are a valid statfs, and the call has filled it.
    let kind = unsafe { found.assume_init() }.f_type;
    Ok(kind == libc::TMPFS_MAGIC)
}

/// Whether this process is root's.
pub fn is_root() -> bool {
    // SAFETY: a plain system call without pointers.
    unsafe { libc::geteuid() == 0 }
}

/// Ends the process at once, without waiting for threads that are still working.
pub fn leave(status: i32) -> ! {
    // SAFETY: `_exit` has no preconditions; everything worth keeping was written and flushed by the caller.
    unsafe { libc::_exit(status) }
}

/// CPUs that this process may use.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
