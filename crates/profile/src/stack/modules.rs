//! The modules that are loaded into this process, as the dynamic linker lists them: where they are, and their unwind tables.
//!
//! Headers and tables are copied through the kernel, so that a module unloaded meanwhile is a failed read, not a crash.

#![allow(unsafe_code)]

use crate::sys;
use std::ops::Range;

/// A loaded module with its unwind tables.
pub(super) struct Module {
    /// What is added to the module's own addresses.
    pub(super) bias: u64,
    /// Where its code is.
    pub(super) code: Range<u64>,
    pub(super) header_at: u64,
    pub(super) header: Vec<u8>,
    pub(super) frames_at: u64,
    pub(super) frames: Vec<u8>,
}

/// What changes when a module comes or goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Edition {
    adds: u64,
    subs: u64,
}

/// Most modules that are listed.
const MODULES_MAX: usize = 4096;
/// Most bytes of unwind tables of one module; the largest programs have about 100 MB.
const TABLES_MAX: u64 = 512 << 20;

struct Listed {
    bias: u64,
    segments: Vec<(u32, u64, u64)>,
}

struct List {
    modules: Vec<Listed>,
    edition: Edition,
}

/// The present edition, without the tables.
pub(super) fn edition() -> Edition {
    list().edition
}

/// Lists the modules that have code and an index of frames (`.eh_frame_hdr`).
pub(super) fn load() -> (Edition, Vec<Module>) {
    let list = list();
    let modules = list.modules.iter().filter_map(tables).collect();
    (list.edition, modules)
}

fn list() -> List {
    let mut list = List {
        modules: Vec::new(),
        edition: Edition::default(),
    };
    // SAFETY: `one` gets the pointer given here, which outlives the call, and the linker calls it on this thread.
    unsafe { libc::dl_iterate_phdr(Some(one), (&raw mut list).cast()) };
    list
}

unsafe extern "C" fn one(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    list: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the linker passes a valid description, and `list` is the pointer given in `list()`, used by nobody else meanwhile.
    let (info, list) = unsafe { (&*info, &mut *list.cast::<List>()) };
    list.edition = Edition {
        adds: info.dlpi_adds,
        subs: info.dlpi_subs,
    };
    if list.modules.len() >= MODULES_MAX {
        return 1;
    }
    let count = usize::from(info.dlpi_phnum);
    let segments = if info.dlpi_phdr.is_null() {
        Vec::new()
    } else {
        // SAFETY: the linker holds its lock during the call, so the headers of the module stay, `count` of them.
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, count) }
            .iter()
            .map(|header| (header.p_type, header.p_vaddr, header.p_memsz))
            .collect()
    };
    list.modules.push(Listed {
        bias: info.dlpi_addr,
        segments,
    });
    0
}

fn tables(listed: &Listed) -> Option<Module> {
    let range = |&(_, start, len): &(u32, u64, u64)| {
        let start = listed.bias.wrapping_add(start);
        Some(start..start.checked_add(len)?)
    };
    let loaded: Vec<Range<u64>> = listed
        .segments
        .iter()
        .filter(|segment| segment.0 == libc::PT_LOAD)
        .filter_map(range)
        .collect();
    let header = listed
        .segments
        .iter()
        .find(|segment| segment.0 == libc::PT_GNU_EH_FRAME)
        .and_then(range)?;
    let code = loaded.iter().map(|r| r.start).min()?..loaded.iter().map(|r| r.end).max()?;
    let header_bytes = read(header.start, header.end - header.start)?;
    let frames_at = frames_of(&header_bytes, header.start)?;
    // The header does not say how long the table is; it ends with its segment at the latest.
    let segment = loaded.iter().find(|r| r.contains(&frames_at))?;
    let frames = read(frames_at, segment.end - frames_at)?;
    Some(Module {
        bias: listed.bias,
        code,
        header_at: header.start,
        header: header_bytes,
        frames_at,
        frames,
    })
}

fn read(address: u64, len: u64) -> Option<Vec<u8>> {
    if len == 0 || len > TABLES_MAX {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    let read = sys::read_memory(address, &mut bytes);
    bytes.truncate(read);
    (read > 0).then_some(bytes)
}

/// Where the table of frames is, by its index (Linux Standard Base, "Exception Frames"): version 1, an encoding, and in that encoding
/// the address.
fn frames_of(header: &[u8], at: u64) -> Option<u64> {
    /// Relative to the field itself, or absolute; four signed bytes, or eight bytes.
    const RELATIVE: u8 = 0x10;
    let &[1, encoding, _, _, ref rest @ ..] = header else {
        return None;
    };
    let value = match encoding & 0x0f {
        0x0b => i64::from(i32::from_ne_bytes(rest.get(..4)?.try_into().ok()?)),
        0x03 => i64::from(u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?)),
        0x00 | 0x04 | 0x0c => i64::from_ne_bytes(rest.get(..8)?.try_into().ok()?),
        _ => return None,
    };
    match encoding & 0x70 {
        0x00 => Some(value as u64),
        RELATIVE => Some((at + 4).wrapping_add(value as u64)),
        _ => None,
    }
}
