//! Where the workspace is and what is in it, from `cargo metadata`.

use crate::commands::{cargo, stdout_of};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::PathBuf;

/// The root of the repository: the folder above this package.
pub(crate) fn root() -> PathBuf {
    // Cargo tells where the package is when it runs the program; a copy of the program that is run by itself has only
    // the place where it was built.
    let package = std::env::var("CARGO_MANIFEST_DIR")
        .unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    PathBuf::from(package)
        .parent()
        .map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// A package of the workspace.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// What it needs to be built: names, development dependencies left out.
    pub(crate) dependencies: Vec<String>,
    /// Kind and name of each target, such as ("test", "loom").
    pub(crate) targets: Vec<(String, String)>,
    /// The folder of its manifest.
    pub(crate) folder: PathBuf,
}

impl Package {
    /// Whether it has this target.
    pub(crate) fn has(&self, kind: &str, name: &str) -> bool {
        self.targets
            .iter()
            .any(|target| target.0 == kind && target.1 == name)
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn package(value: &Value) -> Package {
    let is_build_time = |dependency: &&Value| dependency["kind"].as_str() != Some("dev");
    let targets = list(&value["targets"]).iter().flat_map(|target| {
        let kinds = list(&target["kind"]).iter().filter_map(Value::as_str);
        kinds
            .map(|kind| (kind.to_owned(), text(target, "name")))
            .collect::<Vec<_>>()
    });
    Package {
        name: text(value, "name"),
        dependencies: list(&value["dependencies"])
            .iter()
            .filter(is_build_time)
            .map(|dependency| text(dependency, "name"))
            .collect(),
        targets: targets.collect(),
        folder: PathBuf::from(text(value, "manifest_path"))
            .parent()
            .map(PathBuf::from)
            .unwrap_or_default(),
    }
}

/// All packages of the workspace.
pub(crate) fn packages() -> Result<Vec<Package>> {
    let output = stdout_of(cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&output).context("the output of cargo metadata")?;
    Ok(list(&metadata["packages"]).iter().map(package).collect())
}
