//! System calls about threads: priority, pinning, clocks, and where they run.
//!
//! This is the only module of the crate that talks to the kernel, and one of its few `unsafe` ones. Everything here is
//! best effort by nature: a container may forbid a call, a kernel may be too old, the platform may not be Linux. So each
//! function answers with a value or with [`Unavailable`], which names what is missing and why, and the caller goes on
//! without. On unixes other than Linux every function compiles and says that it is unavailable.
//!
//! Invariants: no call here blocks; none but `pin_thread` changes anything but the calling thread; none panics.
//!
//! Left out: judgement. Which priority, which CPUs and how many threads is decided elsewhere (`topology` for the layout,
//! the policy crate for weights).

use std::time::Duration;

use crate::topology::CpuSet;

/// Something that this kernel, container or platform does not offer, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is unavailable: {why}")]
pub struct Unavailable {
    /// What was asked for, such as `"pinning a thread"`.
    pub what: &'static str,
    /// Why it is not to be had; for a refused system call the kernel's error text.
    pub why: String,
}

impl Unavailable {
    pub(crate) fn new(what: &'static str, why: impl Into<String>) -> Self {
        Self {
            what,
            why: why.into(),
        }
    }

    #[cfg(target_os = "linux")]
    fn last_os_error(what: &'static str) -> Self {
        Self::new(what, std::io::Error::last_os_error().to_string())
    }

    #[cfg(not(target_os = "linux"))]
    fn platform(what: &'static str) -> Self {
        Self::new(what, "this platform is not Linux")
    }
}

/// How the kernel ranks the threads of the back group against all other threads of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BackPriority {
    /// `SCHED_IDLE`: a woken front thread takes the CPU at once. Entering needs no privilege, leaving does, so it holds
    /// for the thread's life. Such threads give way to foreign processes of normal priority, too.
    #[default]
    Idle,
    /// A nice value, -20 (favoured) to 19 (modest). Below the thread's present value it needs `CAP_SYS_NICE` or a
    /// sufficient `RLIMIT_NICE`.
    Nice(i8),
    /// Whatever the thread inherited from its creator.
    Normal,
}

/// The shortest EEVDF slice that Linux grants.
pub(crate) const SLICE_MIN: Duration = Duration::from_micros(100);
/// The longest EEVDF slice that Linux grants.
pub(crate) const SLICE_MAX: Duration = Duration::from_millis(100);

/// Gives the calling thread the priority `priority`, for its whole life.
///
/// # Errors
/// [`Unavailable`] when the kernel refuses (privilege, seccomp), the nice value is outside -20..=19, or the platform is
/// not Linux. The thread then keeps the priority it had. `Normal` never fails.
pub(crate) fn set_priority(priority: BackPriority) -> Result<(), Unavailable> {
    match priority {
        BackPriority::Normal => Ok(()),
        BackPriority::Idle => imp::set_idle(),
        BackPriority::Nice(nice) if (-20..=19).contains(&nice) => imp::set_nice(nice),
        BackPriority::Nice(nice) => Err(Unavailable::new(
            "thread niceness",
            format!("nice value {nice} is outside -20..=19"),
        )),
    }
}

/// Sets the EEVDF slice of the calling thread: how long it runs before the kernel looks for another, and how soon it
/// is served after it wakes (a shorter slice means an earlier deadline). The policy and the nice value stay.
///
/// # Errors
/// [`Unavailable`] when `slice` is outside [`SLICE_MIN`]`..=`[`SLICE_MAX`], when the kernel is older than 6.12 (the
/// call succeeds there and changes nothing, so the value is read back), when the thread's policy has no slice
/// (`SCHED_IDLE`), or when the call is refused.
pub(crate) fn set_slice(slice: Duration) -> Result<(), Unavailable> {
    if !(SLICE_MIN..=SLICE_MAX).contains(&slice) {
        return Err(Unavailable::new(
            "thread time slice",
            format!("{slice:?} is outside {SLICE_MIN:?}..={SLICE_MAX:?}"),
        ));
    }
    imp::set_slice(slice)
}

/// Lets the calling thread run on the CPUs of `cpus` only.
///
/// # Errors
/// [`Unavailable`] when `cpus` is empty, names only CPUs that are offline or outside the process's cpuset, or the
/// platform cannot pin.
pub(crate) fn pin(cpus: &CpuSet) -> Result<(), Unavailable> {
    if cpus.is_empty() {
        return Err(Unavailable::new(
            "pinning a thread",
            "the set of CPUs is empty",
        ));
    }
    imp::pin(0, cpus)
}

/// As [`pin`], for another thread of this process by the kernel's id. The caller sees to it that the thread lives.
///
/// # Errors
/// As [`pin`].
pub(crate) fn pin_thread(thread: u32, cpus: &CpuSet) -> Result<(), Unavailable> {
    imp::pin(thread, cpus)
}

/// The CPUs that threads of the process may run on: those of its first thread and of the calling one together, as either may
/// have been pinned to fewer.
///
/// # Errors
/// [`Unavailable`] where the platform has no affinity masks.
pub(crate) fn usable_cpus() -> Result<CpuSet, Unavailable> {
    let (first, own) = (imp::affinity(std::process::id())?, allowed_cpus()?);
    Ok(first.iter().chain(own.iter()).collect())
}

/// The CPUs on which the calling thread may run: its affinity mask, which lies inside the cgroup's cpuset.
///
/// # Errors
/// [`Unavailable`] where the platform has no affinity masks.
pub(crate) fn allowed_cpus() -> Result<CpuSet, Unavailable> {
    imp::affinity(0)
}

/// How many threads can run at the same moment: the smaller of the affinity mask's size and the cgroup CPU quota
/// (version 1 or 2, the tightest of the process's ancestors, rounded up). At least 1.
pub fn available_parallelism() -> usize {
    let by_mask = allowed_cpus().map_or_else(
        |_| std::thread::available_parallelism().map_or(1, usize::from),
        |cpus| cpus.len(),
    );
    let by_quota = crate::topology::quota_cpus(std::path::Path::new("/"))
        .map_or(usize::MAX, |cpus| cpus.ceil() as usize);
    by_mask.min(by_quota).max(1)
}

/// The CPU on which the calling thread runs at this moment; by the time it is used it may run elsewhere.
///
/// # Errors
/// [`Unavailable`] where the platform does not say.
pub(crate) fn current_cpu() -> Result<u32, Unavailable> {
    imp::current_cpu()
}

/// The kernel's id of the calling thread, as `/proc/self/task` and `top -H` show it.
///
/// # Errors
/// [`Unavailable`] where threads have no such id.
pub(crate) fn thread_id() -> Result<u32, Unavailable> {
    imp::thread_id()
}

/// The CPU clock of one thread of this process, readable from its other threads.
///
/// It names the thread by the kernel's id and not by `pthread_t`, because a `pthread_t` must not be used once its
/// thread has ended, while a stale id is merely refused: [`read`](Self::read) answers `None` then. The kernel hands ids
/// out again, so the owner drops this value when the thread ends; reading later is memory safe, but the figure may be
/// that of a younger thread of this process (the kernel refuses those of other processes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ThreadClock {
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    thread: u32,
}

impl ThreadClock {
    /// The clock of the calling thread.
    ///
    /// # Errors
    /// [`Unavailable`] where one thread cannot read another's clock.
    pub(crate) fn of_current_thread() -> Result<Self, Unavailable> {
        let clock = Self {
            thread: thread_id()?,
        };
        match clock.read() {
            Some(_) => Ok(clock),
            None => Err(Unavailable::new(
                "another thread's CPU clock",
                "the kernel refuses to read it",
            )),
        }
    }

    /// CPU time that the thread has used since it began, in nanoseconds; `None` once it has ended. About 0.5 µs.
    pub(crate) fn read(self) -> Option<u64> {
        imp::thread_clock(self)
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::mem;
    use std::time::Duration;

    use super::{ThreadClock, Unavailable};
    use crate::topology::CpuSet;

    /// `struct sched_attr` of `<linux/sched/types.h>` in its first published size, which every kernel accepts.
    #[repr(C)]
    #[derive(Default)]
    struct SchedAttr {
        size: u32,
        sched_policy: u32,
        sched_flags: u64,
        sched_nice: i32,
        sched_priority: u32,
        sched_runtime: u64,
        sched_deadline: u64,
        sched_period: u64,
    }

    const SCHED_ATTR_SIZE: u32 = 48;
    const _: () = assert!(mem::size_of::<SchedAttr>() == SCHED_ATTR_SIZE as usize);

    pub(super) fn set_idle() -> Result<(), Unavailable> {
        // SAFETY: `sched_param` is a plain C struct for which all zeroes is a value (priority 0, which SCHED_IDLE needs).
        let param: libc::sched_param = unsafe { mem::zeroed() };
        // SAFETY: `param` lives through the call, which only reads it; pid 0 is the calling thread.
        let status = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const param) };
        check(status, "SCHED_IDLE")
    }

    pub(super) fn set_nice(nice: i8) -> Result<(), Unavailable> {
        let thread = thread_id()?;
        // SAFETY: takes numbers only. On Linux the id of a thread stands for that thread alone.
        let status = unsafe { libc::setpriority(libc::PRIO_PROCESS, thread, i32::from(nice)) };
        check(status, "thread niceness")
    }

    pub(super) fn set_slice(slice: Duration) -> Result<(), Unavailable> {
        const WHAT: &str = "thread time slice";
        let mut attr = get_attr(WHAT)?;
        if attr.sched_policy == libc::SCHED_IDLE as u32 {
            return Err(Unavailable::new(
                WHAT,
                "SCHED_IDLE threads have no slice of their own",
            ));
        }
        let wanted = slice.as_nanos() as u64;
        attr.size = SCHED_ATTR_SIZE;
        attr.sched_runtime = wanted;
        attr.sched_deadline = 0;
        attr.sched_period = 0;
        // SAFETY: `attr` lives through the call, which reads `attr.size` bytes of it; pid 0 is the calling thread and
        // no flags are defined.
        let status = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw mut attr, 0) };
        check(status as i32, WHAT)?;
        match get_attr(WHAT)?.sched_runtime {
            taken if taken == wanted => Ok(()),
            taken => Err(Unavailable::new(
                WHAT,
                format!("the kernel kept {taken} ns; Linux 6.12 or later is needed"),
            )),
        }
    }

    fn get_attr(what: &'static str) -> Result<SchedAttr, Unavailable> {
        let mut attr = SchedAttr::default();
        // SAFETY: the kernel writes at most SCHED_ATTR_SIZE bytes, the size of `attr`, which lives through the call.
        let status = unsafe {
            libc::syscall(
                libc::SYS_sched_getattr,
                0,
                &raw mut attr,
                SCHED_ATTR_SIZE,
                0,
            )
        };
        check(status as i32, what).map(|()| attr)
    }

    pub(super) fn pin(thread: u32, cpus: &CpuSet) -> Result<(), Unavailable> {
        let words = mask_words(cpus);
        // SAFETY: the pointer and the size in bytes describe `words`, an initialised buffer that outlives the call and is
        // only read; `cpu_set_t` is an array of words with the same bit order, of which the call uses `size` bytes.
        let status = unsafe {
            libc::sched_setaffinity(
                thread as libc::pid_t,
                mem::size_of_val(words.as_slice()),
                words.as_ptr().cast::<libc::cpu_set_t>(),
            )
        };
        check(status, "pinning a thread")
    }

    /// The set as the kernel's array of unsigned longs.
    fn mask_words(cpus: &CpuSet) -> Vec<libc::c_ulong> {
        let bits = libc::c_ulong::BITS;
        let words = cpus.iter().max().map_or(1, |last| last / bits + 1);
        let mut mask = vec![0; words as usize];
        for cpu in cpus.iter() {
            mask[(cpu / bits) as usize] |= 1 << (cpu % bits);
        }
        mask
    }

    pub(super) fn affinity(thread: u32) -> Result<CpuSet, Unavailable> {
        const WHAT: &str = "the affinity mask";
        const LARGEST_WORDS: usize = 1 << 12;
        let bits = libc::c_ulong::BITS;
        let mut words: Vec<libc::c_ulong> = vec![0; 16];
        loop {
            // SAFETY: the pointer and the size in bytes describe `words`, which outlives the call; every bit pattern that
            // the kernel writes there is a value.
            let status = unsafe {
                libc::sched_getaffinity(
                    thread as libc::pid_t,
                    mem::size_of_val(words.as_slice()),
                    words.as_mut_ptr().cast::<libc::cpu_set_t>(),
                )
            };
            if status == 0 {
                break;
            }
            let error = std::io::Error::last_os_error();
            // EINVAL: the kernel's mask is longer than the buffer.
            if error.raw_os_error() != Some(libc::EINVAL) || words.len() >= LARGEST_WORDS {
                return Err(Unavailable::new(WHAT, error.to_string()));
            }
            words = vec![0; words.len() * 2];
        }
        Ok((0u32..)
            .zip(&words)
            .flat_map(|(index, word)| {
                (0..bits)
                    .filter(move |bit| word >> bit & 1 == 1)
                    .map(move |bit| index * bits + bit)
            })
            .collect())
    }

    pub(super) fn current_cpu() -> Result<u32, Unavailable> {
        // SAFETY: takes nothing and touches no memory of ours.
        let cpu = unsafe { libc::sched_getcpu() };
        u32::try_from(cpu).map_err(|_| Unavailable::last_os_error("the current CPU"))
    }

    pub(super) fn thread_id() -> Result<u32, Unavailable> {
        // SAFETY: takes nothing and always succeeds.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) };
        u32::try_from(thread).map_err(|_| Unavailable::last_os_error("the thread's id"))
    }

    pub(super) fn thread_clock(clock: ThreadClock) -> Option<u64> {
        // The kernel's encoding of a dynamic clock id (include/linux/posix-timers_types.h): the complement of the thread
        // id above three bits that say "of one thread" (4) and "CPU time as the scheduler counts it" (2).
        let id = (!(clock.thread as libc::clockid_t) << 3) | 4 | 2;
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `time` is writable and lives through the call. An id whose thread has ended yields EINVAL.
        let status = unsafe { libc::clock_gettime(id, &raw mut time) };
        (status == 0).then_some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    fn check(status: i32, what: &'static str) -> Result<(), Unavailable> {
        if status == -1 {
            Err(Unavailable::last_os_error(what))
        } else {
            Ok(())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::time::Duration;

    use super::{ThreadClock, Unavailable};
    use crate::topology::CpuSet;

    pub(super) fn set_idle() -> Result<(), Unavailable> {
        Err(Unavailable::platform("SCHED_IDLE"))
    }

    pub(super) fn set_nice(_nice: i8) -> Result<(), Unavailable> {
        Err(Unavailable::platform("thread niceness"))
    }

    pub(super) fn set_slice(_slice: Duration) -> Result<(), Unavailable> {
        Err(Unavailable::platform("thread time slice"))
    }

    pub(super) fn pin(_thread: u32, _cpus: &CpuSet) -> Result<(), Unavailable> {
        Err(Unavailable::platform("pinning a thread"))
    }

    pub(super) fn affinity(_thread: u32) -> Result<CpuSet, Unavailable> {
        Err(Unavailable::platform("the affinity mask"))
    }

    pub(super) fn current_cpu() -> Result<u32, Unavailable> {
        Err(Unavailable::platform("the current CPU"))
    }

    pub(super) fn thread_id() -> Result<u32, Unavailable> {
        Err(Unavailable::platform("the thread's id"))
    }

    pub(super) fn thread_clock(_clock: ThreadClock) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_a_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(body).join().expect("the thread ends")
    }

    #[test]
    fn an_unavailable_thing_says_what_and_why() {
        let missing = Unavailable::new("SCHED_IDLE", "Operation not permitted (os error 1)");
        assert_eq!(
            missing.to_string(),
            "SCHED_IDLE is unavailable: Operation not permitted (os error 1)"
        );
    }

    #[test]
    fn absurd_values_are_refused_before_the_kernel_is_asked() {
        for nice in [-21, 20, i8::MIN, i8::MAX] {
            let refused = set_priority(BackPriority::Nice(nice)).unwrap_err();
            assert!(refused.why.contains("outside -20..=19"), "{refused}");
        }
        for slice in [
            Duration::ZERO,
            Duration::from_nanos(99_999),
            Duration::from_millis(101),
            Duration::MAX,
        ] {
            assert!(set_slice(slice).unwrap_err().why.contains("outside"));
        }
        assert!(pin(&CpuSet::default()).unwrap_err().why.contains("empty"));
    }

    #[test]
    fn parallelism_is_at_least_one() {
        assert!(available_parallelism() >= 1);
    }

    #[cfg(target_os = "linux")]
    mod linux {
        use super::*;

        #[test]
        fn an_idle_thread_stays_idle_and_has_no_slice() {
            on_a_thread(|| {
                set_priority(BackPriority::Idle).unwrap();
                // SAFETY: takes a number; 0 is the calling thread.
                assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_IDLE);
                let refused = set_slice(Duration::from_millis(1)).unwrap_err();
                assert!(refused.why.contains("SCHED_IDLE"), "{refused}");
            });
        }

        #[test]
        fn niceness_belongs_to_the_thread_alone() {
            let nice_of = |thread: u32| {
                // SAFETY: takes numbers only.
                unsafe { libc::getpriority(libc::PRIO_PROCESS, thread) }
            };
            let before = nice_of(thread_id().unwrap());
            let inside = on_a_thread(move || {
                set_priority(BackPriority::Nice(19)).unwrap();
                nice_of(thread_id().unwrap())
            });
            assert_eq!(inside, 19);
            assert_eq!(nice_of(thread_id().unwrap()), before);
        }

        #[test]
        fn a_slice_takes_or_says_why_not() {
            on_a_thread(|| match set_slice(Duration::from_micros(300)) {
                Ok(()) => {}
                Err(unavailable) => assert!(!unavailable.why.is_empty()),
            });
        }

        /// CPU-14: a worker can be pinned to each of the CPUs that it may use, and then runs there.
        #[test]
        fn a_pinned_thread_runs_where_it_was_told() {
            let allowed = allowed_cpus().unwrap();
            assert!(!allowed.is_empty());
            for cpu in allowed.iter() {
                on_a_thread(move || {
                    let only: CpuSet = [cpu].into_iter().collect();
                    pin(&only).unwrap();
                    assert_eq!(allowed_cpus().unwrap(), only);
                    assert_eq!(current_cpu().unwrap(), cpu);
                });
            }
        }

        #[test]
        fn pinning_to_a_cpu_that_does_not_exist_is_an_error() {
            on_a_thread(|| {
                let before = allowed_cpus().unwrap();
                let nowhere: CpuSet = [60_000].into_iter().collect();
                assert!(pin(&nowhere).is_err());
                assert_eq!(allowed_cpus().unwrap(), before);
            });
        }

        #[test]
        fn a_thread_clock_is_readable_from_outside_until_the_thread_ends() {
            let (clock_out, clock_in) = std::sync::mpsc::channel();
            let (end_out, end_in) = std::sync::mpsc::channel::<()>();
            let thread = std::thread::spawn(move || {
                let mut sum = 0u64;
                for i in 0..1_000_000u64 {
                    sum = std::hint::black_box(sum.wrapping_add(i));
                }
                clock_out
                    .send(ThreadClock::of_current_thread().unwrap())
                    .unwrap();
                end_in.recv().unwrap();
            });
            let clock = clock_in.recv().unwrap();
            let first = clock.read().unwrap();
            assert!(first > 0);
            assert!(clock.read().unwrap() >= first);
            end_out.send(()).unwrap();
            thread.join().unwrap();
        }
    }
}
