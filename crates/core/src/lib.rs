//! The vocabulary that every part of flyball shares: time, ids, scheduling classes, outcomes, units, seeded randomness,
//! histograms and averages.
//!
//! Nothing here decides or acts. The crate is `no_std` with alloc unless the feature `std` (on by default) is set; that
//! feature adds the clocks of the operating system, and this is the only crate that reads them. Everything else takes
//! the time as an argument.
//!
//! Invariants: no global state apart from the calibration of [`time::TscClock`] (done once a process, on first use); no
//! threads; no I/O apart from reading the clocks and, for that calibration, two files that describe the clock source.

#![cfg_attr(not(feature = "std"), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

pub mod class;
mod error;
pub mod ewma;
pub mod histogram;
pub mod id;
pub mod outcome;
pub mod rate;
pub mod rng;
pub mod time;
pub mod units;

pub use error::Error;
