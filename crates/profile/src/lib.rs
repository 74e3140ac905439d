//! Stacks of running threads, and reports of blocked tokio workers.
