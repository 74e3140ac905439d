//! Names for addresses, and which of them are the program's own.

use super::unwind::Unwound;
use super::{Frame, Stack};

/// Names the calls of a stack. Reads the modules' symbols and debug information when first needed and keeps them, for the process;
/// may take tens of milliseconds then.
pub(crate) fn name(unwound: &Unwound) -> Stack {
    let mut frames = Vec::new();
    for (depth, call) in unwound.calls.iter().enumerate() {
        name_call(call.address, depth == 0, &mut frames);
    }
    Stack {
        frames,
        complete: unwound.complete,
    }
}

/// Names one call: the inlined ones first, the innermost first.
pub(crate) fn name_call(address: u64, innermost: bool, frames: &mut Vec<Frame>) {
    // A return address may be the first of the next function or line; the library looks one byte before it. The innermost
    // address is the instruction itself.
    let looked_up = address.wrapping_add(u64::from(innermost));
    let first = frames.len();
    backtrace::resolve(looked_up as *mut std::ffi::c_void, |symbol| {
        frames.push(Frame {
            address,
            function: symbol.name().map(|name| format!("{name:#}")),
            file: symbol.filename().map(Into::into),
            line: symbol.lineno(),
            inlined: true,
        });
    });
    if frames.len() == first {
        frames.push(Frame {
            address,
            function: None,
            file: None,
            line: None,
            inlined: false,
        });
    }
    // The last one of an address is the function that the code is in.
    if let Some(last) = frames.last_mut() {
        last.inlined = false;
    }
}

/// The crate that a demangled name begins with: `a` of `a::b`, of `<a::B as c::D>::e`, of `<&mut a::B as c::D>::e`.
fn crate_of(name: &str) -> &str {
    let mut rest = name;
    loop {
        let trimmed = rest
            .trim_start_matches(['<', '&', '*', '(', '[', ' '])
            .trim_start_matches("mut ")
            .trim_start_matches("const ")
            .trim_start_matches("dyn ");
        if trimmed.len() == rest.len() {
            break;
        }
        rest = trimmed;
    }
    let end = rest
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(rest.len());
    &rest[..end]
}

pub(super) fn is_internal(frame: &Frame) -> bool {
    let Some(name) = &frame.function else {
        return true;
    };
    if matches!(crate_of(name), "std" | "core" | "alloc" | "tokio") {
        return true;
    }
    // A name without a path is C's: the system's, or a library's that a function of the program called.
    !name.contains("::")
}

/// Whether the call is one of tokio's that polls a task, or anything around it.
fn is_runtime(frame: &Frame) -> bool {
    frame
        .function()
        .is_some_and(|name| crate_of(name) == "tokio" && name.contains("tokio::runtime::"))
}

/// Whether the source is where cargo keeps what it downloads.
fn is_dependency(frame: &Frame) -> bool {
    frame
        .file()
        .and_then(std::path::Path::to_str)
        .is_some_and(|file| file.contains("/registry/src/") || file.contains("/git/checkouts/"))
}

pub(super) fn short(frames: &[Frame]) -> Vec<&Frame> {
    let Some(culprit) = frames.iter().position(|frame| !frame.is_internal()) else {
        return frames.iter().collect();
    };
    let end = frames[culprit..]
        .iter()
        .position(is_runtime)
        .map_or(frames.len(), |offset| culprit + offset);
    let callee = frames[..culprit].last();
    let mut own: Vec<&Frame> = frames[culprit..end]
        .iter()
        .filter(|frame| !frame.is_internal())
        .collect();
    if let Some(outermost) = own.iter().rposition(|frame| !is_dependency(frame)) {
        own.truncate(outermost + 1);
    }
    callee.into_iter().chain(own).collect()
}
