//! What the machine does: CPU, memory and pressure as the kernel counts them.
