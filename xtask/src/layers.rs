//! `cargo xtask layers`: dependencies point one way, and policy stays pure.
//!
//! A crate may depend only on crates above it in [`ORDER`]. Beside the order stand the simulator, which sees nothing but
//! vocabulary and policy, and the crates that nothing may depend on. Development dependencies are free: a test may look
//! down. A crate that the table does not know is an error, so that nobody adds one without placing it.

use crate::workspace::{self, Package};
use anyhow::{Context, Result, bail};

/// From vocabulary over policy, shells and the engine to the edges.
const ORDER: &[&str] = &[
    "flyball-core",
    "flyball-policy",
    "flyball-limit",
    "flyball-sense",
    "flyball-executor",
    "flyball-process",
    "flyball-memory",
    "flyball-io",
    "flyball-cache",
    "flyball-tasks",
    "flyball-monitor",
    "flyball-profile",
    "flyball-engine",
    "flyball-tower",
    "flyball",
    "flyball-server",
    "flyball-cli",
];

/// The simulator runs policy without any shell: were it to see one, its figures would not be policy's.
const SIMULATOR: (&str, &[&str]) = ("flyball-sim", &["flyball-core", "flyball-policy"]);

/// May depend on anything, and nothing on them.
const LEAVES: &[&str] = &["flyball-examples", "xtask"];

/// What pure code has no use for: the system, threads, a runtime.
const IMPURE: &[&str] = &[
    "libc",
    "rustix",
    "tokio",
    "rayon",
    "crossbeam-channel",
    "rand",
];
const PURE: &[&str] = &["flyball-policy"];

fn place(name: &str) -> Option<usize> {
    ORDER.iter().position(|known| *known == name)
}

fn is_ours(name: &str) -> bool {
    place(name).is_some()
        || name == SIMULATOR.0
        || LEAVES.contains(&name)
        || name.starts_with("flyball")
}

/// What is wrong with this package, a line each.
fn faults(package: &Package) -> Vec<String> {
    let name = package.name.as_str();
    let mut faults = Vec::new();
    if place(name).is_none() && name != SIMULATOR.0 && !LEAVES.contains(&name) {
        faults.push(format!(
            "{name} has no place: add it to ORDER in xtask/src/layers.rs"
        ));
    }
    for dependency in package
        .dependencies
        .iter()
        .map(String::as_str)
        .filter(|name| is_ours(name))
    {
        let allowed = match (place(name), place(dependency)) {
            _ if LEAVES.contains(&dependency) => false,
            _ if LEAVES.contains(&name) => true,
            _ if name == SIMULATOR.0 => SIMULATOR.1.contains(&dependency),
            (Some(own), Some(other)) => other < own,
            _ => false,
        };
        if !allowed {
            faults.push(format!("{name} must not depend on {dependency}"));
        }
    }
    if PURE.contains(&name) {
        let impure = package
            .dependencies
            .iter()
            .filter(|dependency| IMPURE.contains(&dependency.as_str()));
        faults.extend(
            impure.map(|dependency| format!("{name} is pure and must not depend on {dependency}")),
        );
    }
    faults
}

/// Pure crates are `no_std`, so that the compiler keeps clocks, threads and I/O out.
fn no_std_faults(package: &Package) -> Result<Vec<String>> {
    if !PURE.contains(&package.name.as_str()) {
        return Ok(Vec::new());
    }
    let file = package.folder.join("src/lib.rs");
    let text =
        std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let declared = text.lines().any(|line| {
        line.trim() == "#![no_std]" || line.trim() == "#![cfg_attr(not(test), no_std)]"
    });
    Ok(if declared {
        Vec::new()
    } else {
        vec![format!("{} must declare #![no_std]", package.name)]
    })
}

/// Checks all packages.
pub(crate) fn run() -> Result<()> {
    let packages = workspace::packages()?;
    let mut all = Vec::new();
    for package in &packages {
        all.extend(faults(package));
        all.extend(no_std_faults(package)?);
    }
    if !all.is_empty() {
        bail!("{}", all.join("\n"));
    }
    println!(
        "    {} packages, every dependency points up",
        packages.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            dependencies: dependencies.iter().map(|name| (*name).to_owned()).collect(),
            targets: Vec::new(),
            folder: Default::default(),
        }
    }

    #[test]
    fn dependencies_may_point_up_only() {
        assert!(faults(&package("flyball-policy", &["flyball-core", "thiserror"])).is_empty());
        assert!(
            faults(&package(
                "flyball-cli",
                &["flyball", "flyball-process", "clap"]
            ))
            .is_empty()
        );
        assert_eq!(
            faults(&package("flyball-policy", &["flyball-executor"])).len(),
            1
        );
        assert_eq!(faults(&package("flyball-core", &["flyball-core"])).len(), 1);
    }

    #[test]
    fn the_simulator_sees_policy_and_nobody_sees_the_simulator() {
        assert!(faults(&package("flyball-sim", &["flyball-core", "flyball-policy"])).is_empty());
        assert_eq!(
            faults(&package("flyball-sim", &["flyball-executor"])).len(),
            1
        );
        assert_eq!(faults(&package("flyball-cli", &["flyball-sim"])).len(), 1);
    }

    #[test]
    fn leaves_depend_on_all_and_nothing_on_them() {
        assert!(
            faults(&package(
                "flyball-examples",
                &["flyball", "flyball-executor"]
            ))
            .is_empty()
        );
        assert_eq!(faults(&package("flyball", &["flyball-examples"])).len(), 1);
    }

    #[test]
    fn unknown_crates_and_impure_policy_are_faults() {
        assert_eq!(faults(&package("flyball-new", &[])).len(), 1);
        assert_eq!(faults(&package("flyball-policy", &["tokio"])).len(), 1);
    }
}
