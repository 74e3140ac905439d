//! The server as clients meet it: over real sockets, byte for byte.

mod access;
mod bounds;
mod drain;
mod flood;
mod framing;
mod json;
mod openapi;
mod routes;
mod socket;
mod stream;
mod support;
mod tasks;
