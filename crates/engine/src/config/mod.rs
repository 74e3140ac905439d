//! Configuration: one file, one schema, every mistake at once.
//!
//! ```text
//! file, variables, flags ──► tree ──► layers ──► checks ──► Config (typed) + origins
//!                                        ▲
//!                                     schema ──► names of variables, `config schema`, the reference page
//! ```
//!
//! [`load`] reads [`Sources`] into [`Loaded`]: the typed [`Config`], and for each key the text as it was written and where it came
//! from. A configuration is only ever replaced as a whole: [`Loaded::with_changes`] and [`Loaded::reload`] answer a new one and the
//! list of differences, or everything that is wrong.
//!
//! Invariants: a `Config` in a `Loaded` is within every range of the schema; what [`Loaded::to_yaml`] prints loads as the same; no
//! input, however hostile, takes more than bounded memory or makes the reader fall; secrets are not in anything printed.
//!
//! Left out: watching the file, versions and roll-back (the engine's), and acting on the values (each part's).

mod blocks;
mod checks;
mod choices;
mod classes;
mod dependency;
mod entry;
mod error;
mod field;
mod layers;
mod limit;
mod load;
mod origin;
mod page;
mod print;
mod schema;
mod sources;
mod throttle;
mod tree;
mod value;

pub use blocks::*;
pub use choices::*;
pub use classes::Classes;
pub use dependency::{Check, CheckBy};
pub(crate) use entry::Wrong;
pub use error::{Errors, Fault, MAX_FAULTS, Problem};
pub use field::{Counts, MapList, Maps, Secret};
pub use limit::{LimitScope, LimitSpec, MAX_LIMITS};
pub use load::{Change, Loaded, Notice, load};
pub use origin::Origin;
pub use page::{schema_json, schema_markdown, schema_text};
pub use schema::{ALIASES, Alias, ENVIRONMENT_PREFIX, Key, RESERVED, class_keys, key, schema};
pub use sources::Sources;
pub use throttle::{
    DEFAULT_THROTTLE, MAX_THROTTLES, QUOTA_PERCENT, QUOTA_THROTTLE, Scope, ThrottleSpec,
};
pub use tree::{MAX_BYTES, MAX_DEPTH, MAX_FILE, MAX_NODES};
pub use value::{Kind, Value};

#[cfg(test)]
mod tests;
