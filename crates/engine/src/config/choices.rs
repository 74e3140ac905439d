//! The words that keys choose among.

use super::field::choices;

choices! {
    /// How far the optimizer may go.
    OptimizationLevel {
        /// Only recommends.
        Conservative = "conservative",
        /// Acts inside guard bands.
        Balanced = "balanced",
        /// Acts faster and further.
        Aggressive = "aggressive",
    }
}

choices! {
    /// What a limit, a throttle or a breaker does.
    Mode {
        /// It is kept to.
        Enforce = "enforce",
        /// It decides and counts, and holds nobody back.
        Observe = "observe",
    }
}

choices! {
    /// How I/O rates are limited.
    Limiter {
        /// Bursts up to the bucket's depth.
        TokenBucket = "token_bucket",
        /// Evenly paced.
        LeakyBucket = "leaky_bucket",
        /// An exact count in any window.
        SlidingWindow = "sliding_window",
        /// Between bounds, by latency and errors.
        Adaptive = "adaptive",
    }
}

choices! {
    /// The order of reads and writes.
    IoScheduler {
        /// Fair queueing by weight.
        Cfq = "cfq",
        /// By expiry.
        Deadline = "deadline",
        /// First in, first out.
        Noop = "noop",
        /// Picks one by what it measures.
        Adaptive = "adaptive",
    }
}

choices! {
    /// What a cache lets go first.
    EvictionPolicy {
        /// The least recently used.
        Lru = "lru",
        /// The least frequently used.
        Lfu = "lfu",
        /// The first to expire.
        Ttl = "ttl",
        /// Tunes itself to the workload.
        Adaptive = "adaptive",
    }
}

choices! {
    /// How capacity is divided among leases.
    AllocationStrategy {
        /// Max-min over the dominant resource.
        Fair = "fair",
        /// By priority.
        Priority = "priority",
        /// By what was asked for.
        Proportional = "proportional",
        /// Whoever fits first.
        FirstFit = "first_fit",
    }
}

choices! {
    /// What a profile session records.
    ProfileType {
        /// Stacks of running threads.
        Cpu = "cpu",
        /// Allocation sites.
        Memory = "memory",
        /// Every live task.
        Tasks = "tasks",
        /// Time off the CPU.
        Block = "block",
        /// Contention on locks.
        Mutex = "mutex",
        /// The scheduler's timeline.
        Trace = "trace",
    }
}

choices! {
    /// How much an analysis says.
    AnalysisDepth {
        /// The main findings.
        Summary = "summary",
        /// Everything.
        Detailed = "detailed",
    }
}

choices! {
    /// What the optimizer strives for.
    Objective {
        /// Less use of resources.
        Resource = "resource",
        /// Fit to the workload.
        Workload = "workload",
        /// Lower latency.
        Latency = "latency",
        /// Higher throughput.
        Throughput = "throughput",
        /// Fewer cores and wake-ups.
        Power = "power",
    }
}

choices! {
    /// The optimizer's own strategies.
    BuiltIn {
        /// How many workers may run at once.
        Parallelism = "parallelism",
        /// When the allocator gives memory back.
        Allocator = "allocator",
        /// How many tasks live at once.
        Tasks = "tasks",
    }
}

choices! {
    /// Where durable tasks are kept.
    QueueBackend {
        /// In the state folder.
        Embedded = "embedded",
        /// In PostgreSQL.
        Postgresql = "postgresql",
        /// In NATS JetStream.
        Nats = "nats",
    }
}

choices! {
    /// How the kernel ranks the back group's threads.
    BackPriority {
        /// Below everything else on the machine: only CPU time that nobody else wants.
        Idle = "idle",
        /// By `back_nice`.
        Nice = "nice",
        /// Like any other program.
        Normal = "normal",
    }
}

choices! {
    /// How log lines look.
    LogFormat {
        /// For people.
        Human = "human",
        /// One JSON object a line.
        Json = "json",
    }
}

choices! {
    /// Which log lines are written.
    LogLevel {
        /// None.
        Off = "off",
        /// What failed.
        Error = "error",
        /// And what may fail.
        Warn = "warn",
        /// And what happened.
        Info = "info",
        /// And why.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}
