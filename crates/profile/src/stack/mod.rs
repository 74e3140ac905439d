//! The stack of another thread: copied, unwound, named.
//!
//! `capture::Sampler` makes the thread copy its registers and the top of its stack; everything else is done by whoever asked, from
//! the copy: `unwind` follows the call frame information of the loaded modules (so release builds without frame pointers are
//! fine), and `symbols` names what it found, inlined calls included, with file and line where there is debug information.
//!
//! Why copy first: an unwinder inside a signal handler takes locks and allocates, and so can deadlock with the code that it
//! interrupted. The handler here makes one system call and stores a few words.
//!
//! Left out: stacks of other processes; stacks deeper than [`COPY_BYTES`], whose outer end is missing ([`Stack::is_complete`] says so).

mod capture;
mod modules;
mod signal;
mod symbols;
#[cfg(test)]
mod tests;
mod unwind;

pub(crate) use capture::SIGNAL;
pub(crate) use capture::{Raw, Sampler};
pub(crate) use symbols::{name, name_call};
pub(crate) use unwind::{Unwinder, Unwound};

use std::fmt;
use std::path::{Path, PathBuf};

/// How much of a stack is copied, from the stack pointer outwards.
pub const COPY_BYTES: usize = 64 * 1024;

/// Most frames of a stack, inlined ones not counted.
pub const FRAMES_MAX: usize = 256;

/// One call on a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub(crate) address: u64,
    pub(crate) function: Option<String>,
    pub(crate) file: Option<PathBuf>,
    pub(crate) line: Option<u32>,
    pub(crate) inlined: bool,
}

impl Frame {
    /// The address of the instruction: the one that is executed for the innermost frame, the one to return to for others.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The demangled name of the function; `None` where the module has no symbol for it.
    pub fn function(&self) -> Option<&str> {
        self.function.as_deref()
    }

    /// The source file, where there is debug information.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The line in the source file, where there is debug information.
    pub fn line(&self) -> Option<u32> {
        self.line
    }

    /// Whether the call was inlined into the next frame outwards.
    pub fn is_inlined(&self) -> bool {
        self.inlined
    }

    /// Whether the function belongs to the standard library, to tokio, or to the system rather than to the program. Names without
    /// a path (`main`, C's functions) count as the system's.
    pub fn is_internal(&self) -> bool {
        symbols::is_internal(self)
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.function {
            Some(function) => f.write_str(function)?,
            None => write!(f, "{:#x}", self.address)?,
        }
        if let Some(file) = &self.file {
            write!(f, " at {}", file.display())?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
        }
        Ok(())
    }
}

/// A thread's calls, the innermost first.
///
/// `{}` prints the short form, a call a line: the program's own functions, preceded by what they were calling. `{:#}` prints
/// every frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    pub(crate) frames: Vec<Frame>,
    pub(crate) complete: bool,
}

impl Stack {
    /// All calls, the innermost first.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Whether the stack was followed to where the thread begins.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The program's own calls, the innermost first, preceded by the library call that they are in, if there is one.
    ///
    /// Frames outside of the innermost poll of a task are tokio's and left out, and so are those of dependencies (a web framework's, say)
    /// outside of the program's outermost, as far as debug information tells them. All frames where none belongs to the program.
    pub fn short(&self) -> Vec<&Frame> {
        symbols::short(&self.frames)
    }

    /// The innermost call of the program's own: the function to look at, and the line in it.
    pub fn culprit(&self) -> Option<&Frame> {
        self.frames.iter().find(|frame| !frame.is_internal())
    }

    /// Whether a function with `part` in its name is on the stack.
    pub fn mentions(&self, part: &str) -> bool {
        self.frames
            .iter()
            .filter_map(Frame::function)
            .any(|name| name.contains(part))
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frames = if f.alternate() {
            self.frames.iter().collect()
        } else {
            self.short()
        };
        for (number, frame) in frames.into_iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(f, "{frame}")?;
        }
        Ok(())
    }
}
