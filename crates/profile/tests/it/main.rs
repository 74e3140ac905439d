//! The watch on real runtimes. Waits are for reports or for numbers of samples, never for times; the one-minute limits only end a
//! test that would hang.
#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]

mod blocked;
mod not_blocked;
mod refused;
mod support;
