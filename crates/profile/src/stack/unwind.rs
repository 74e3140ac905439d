//! From a copied stack to the addresses of its calls.

use super::FRAMES_MAX;
use super::capture::Raw;
use super::modules::{self, Edition};
use framehop::{
    CacheNative, ExplicitModuleSectionInfo, FrameAddress, MayAllocateDuringUnwind, Module,
    UnwindRegsNative, Unwinder as _, UnwinderNative,
};
use std::ops::Range;

/// One call: where it is, and which part of the stack it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// The instruction: the one that is executed for the innermost call, the one to return to for others.
    pub(crate) address: u64,
    /// The call's own part of the stack.
    pub(crate) memory: Range<u64>,
}

/// The calls of a stack, the innermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unwound {
    pub(crate) calls: Vec<Call>,
    /// Whether the outermost call is where the thread begins.
    pub(crate) complete: bool,
}

/// Follows the call frame information of the modules of this process; reads it again when modules came or went.
pub(crate) struct Unwinder {
    edition: Option<Edition>,
    unwinder: UnwinderNative<Vec<u8>, MayAllocateDuringUnwind>,
    cache: CacheNative<MayAllocateDuringUnwind>,
}

impl Unwinder {
    /// An unwinder that reads the modules' tables when it is first used.
    pub(crate) fn new() -> Self {
        Unwinder {
            edition: None,
            unwinder: UnwinderNative::new(),
            cache: CacheNative::new(),
        }
    }

    /// Unwinds a copy.
    pub(crate) fn unwind(&mut self, raw: &Raw) -> Unwound {
        self.refresh();
        let mut regs = self.registers(raw);
        let mut read = |address: u64| raw.word(address).ok_or(());
        let mut unwound = Unwound::default();
        let mut address = FrameAddress::from_instruction_pointer(raw.registers.pc);
        while unwound.calls.len() < FRAMES_MAX {
            let start = regs.sp();
            let next = self
                .unwinder
                .unwind_frame(address, &mut regs, &mut self.cache, &mut read);
            unwound.calls.push(Call {
                address: address.address(),
                memory: start..regs.sp().max(start),
            });
            match next {
                Ok(Some(caller)) => match FrameAddress::from_return_address(caller) {
                    Some(caller) => address = caller,
                    None => break,
                },
                Ok(None) => {
                    unwound.complete = true;
                    break;
                }
                Err(_) => break,
            }
        }
        unwound
    }

    fn refresh(&mut self) {
        let edition = modules::edition();
        if self.edition == Some(edition) {
            return;
        }
        let (edition, modules) = modules::load();
        self.unwinder = UnwinderNative::new();
        self.cache = CacheNative::new();
        for module in modules {
            let svma = |at: u64, len: usize| {
                let start = at.wrapping_sub(module.bias);
                Some(start..start.wrapping_add(len as u64))
            };
            let sections = ExplicitModuleSectionInfo {
                base_svma: 0,
                text_svma: svma(
                    module.code.start,
                    (module.code.end - module.code.start) as usize,
                ),
                eh_frame_hdr_svma: svma(module.header_at, module.header.len()),
                eh_frame_svma: svma(module.frames_at, module.frames.len()),
                eh_frame_hdr: Some(module.header),
                eh_frame: Some(module.frames),
                ..ExplicitModuleSectionInfo::default()
            };
            self.unwinder.add_module(Module::new(
                String::new(),
                module.code,
                module.bias,
                sections,
            ));
        }
        self.edition = Some(edition);
    }

    #[cfg(target_arch = "x86_64")]
    fn registers(&self, raw: &Raw) -> UnwindRegsNative {
        UnwindRegsNative::new(raw.registers.pc, raw.registers.sp, raw.registers.fp)
    }

    #[cfg(target_arch = "aarch64")]
    fn registers(&self, raw: &Raw) -> UnwindRegsNative {
        UnwindRegsNative::new_with_ptr_auth_mask(
            framehop::aarch64::PtrAuthMask::from_max_known_address(
                self.unwinder.max_known_code_address(),
            ),
            raw.registers.lr,
            raw.registers.sp,
            raw.registers.fp,
        )
    }
}

impl std::fmt::Debug for Unwinder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unwinder")
            .field("edition", &self.edition)
            .finish_non_exhaustive()
    }
}
