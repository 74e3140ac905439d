//! The HTTP API of a flyball daemon.
//!
//! [`Server::start`] opens TCP addresses and a Unix socket and answers on one thread of its own. Handlers are thin: each is one
//! call of the engine, which never waits for the pool, so figures can be read while every worker is busy.
//!
//! | module | what it is |
//! |---|---|
//! | `options`, `listen`, `token` | where it may listen, the socket, the admin token |
//! | `http` | what strangers send, judged and bounded before a handler sees it |
//! | `access` | who may ask what |
//! | `relay` | who waits for the queue of tasks is woken in groups |
//! | `problem` | errors as documents (RFC 9457) |
//! | `routes` | the calls, a module a resource |
//! | `openapi` | the description of all calls, made from the handlers |
//!
//! Invariants: a refused request has changed nothing; bad input never gives a 500; every wait for a client is timed and every
//! buffer bounded; no reply holds a token or a backtrace.
//!
//! Absent on purpose: HTTP/2 (bounds would be needed for its streams, too), compression, CORS, TLS.

// A refusal is a response in the making, and rare: boxing it would buy nothing.
#![allow(clippy::result_large_err)]

mod access;
mod error;
mod http;
mod listen;
mod openapi;
mod options;
mod problem;
mod relay;
mod routes;
mod server;
mod sys;
mod token;

pub use error::Error;
pub use options::{DEFAULT_PORT, Limits, Options};
pub use problem::{FieldError, Problem};
pub use server::Server;
pub use token::TOKEN_FILE;
