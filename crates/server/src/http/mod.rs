//! HTTP/1 on sockets that strangers can open: what is judged and bounded before a request reaches a handler.
//!
//! ```text
//! socket ─► wire (head judged, framed, timed) ─► hyper ─► gate (Host, Origin, who) ─► routes
//!             ├── express (the calls of the task queue that come most, answered from here)
//!             └── link ── connections (a bounded table: who goes when a new one comes)
//! ```
//!
//! The library (hyper) parses, decodes and keeps connections alive. What it leaves to its user is here: time and size limits
//! that tell idle from slow, ambiguous framing, and which connection goes when there are too many.

pub(crate) mod accept;
pub(crate) mod body;
pub(crate) mod chunks;
pub(crate) mod connections;
pub(crate) mod express;
pub(crate) mod gate;
pub(crate) mod head;
pub(crate) mod json;
pub(crate) mod query;
pub(crate) mod wire;
