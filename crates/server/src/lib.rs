//! The HTTP API of a flyball daemon.
