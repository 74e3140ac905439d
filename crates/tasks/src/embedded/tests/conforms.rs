//! The embedded queue passes the suite that every backend must pass.

use super::fixture::make;

crate::task_queue_conformance!(make);
