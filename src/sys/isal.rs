//! Inflate by ISA-L (Intel's storage library, `libisal.so.2`), where the operator has chosen it: a quarter less processor time
//! than zlib-rs takes, for a decoder in C and assembly that reads what strangers made.
//!
//! The library is loaded when it is wanted and never linked. Of its state only the first fields and the decoder's stage are
//! touched, whose places are those of `igzip_lib.h` 2.30; a stream of known content is decoded before the first real one, so
//! that a library with another idea of them is refused.

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::sync::OnceLock;

const LIBRARY: &CStr = c"libisal.so.2";

/// `ISAL_BLOCK_FINISH`: the stream has ended, and all of it was given out.
const FINISH: u32 = 5;
/// `ISAL_END_INPUT` and `ISAL_OUT_OVERFLOW`: it goes on with more input or room.
const GOES_ON: [c_int; 3] = [0, 1, 2];

/// More than the library's own state takes (87,368 bytes in 2.30), in whole words.
const REST: usize = (256 << 10) - 21_164;

/// `struct inflate_state`: what is read and written here, between what is not.
#[repr(C, align(64))]
struct State {
    next_out: *mut u8,
    avail_out: u32,
    total_out: u32,
    next_in: *const u8,
    read_in: u64,
    avail_in: u32,
    read_in_length: i32,
    codes: [u8; 18_912 + 2_208],
    block_state: u32,
    rest: [u8; REST],
}

type Init = unsafe extern "C" fn(*mut State);
type Run = unsafe extern "C" fn(*mut State) -> c_int;

#[derive(Clone, Copy)]
struct Library {
    init: Init,
    reset: Init,
    inflate: Run,
}

static LOADED: OnceLock<Library> = OnceLock::new();

/// Loads the library, for the rest of the process's life. An error says that it is not there, or not what it should be.
pub fn load() -> io::Result<()> {
    if LOADED.get().is_none() {
        let library = open()?;
        if !is_sound(library) {
            return Err(io::Error::other("libisal.so.2 does not decode as version 2.30 does"));
        }
        let _ = LOADED.set(library);
    }
    Ok(())
}

fn open() -> io::Result<Library> {
    // SAFETY: the name is a C string; the library's own initialisers do nothing but choose functions by processor.
    let handle = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "libisal.so.2 cannot be loaded: install libisal2",
        ));
    }
    let symbol = |name: &CStr| -> io::Result<*mut c_void> {
        // SAFETY: the handle is open and stays so; the name is a C string.
        let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
        if found.is_null() { Err(io::Error::other("libisal.so.2 lacks a function")) } else { Ok(found) }
    };
    let (init, reset, inflate) =
        (symbol(c"isal_inflate_init")?, symbol(c"isal_inflate_reset")?, symbol(c"isal_inflate")?);
    // SAFETY: functions of these names have these signatures in every libisal.so.2 (igzip_lib.h).
    unsafe {
        Ok(Library {
            init: std::mem::transmute::<*mut c_void, Init>(init),
            reset: std::mem::transmute::<*mut c_void, Init>(reset),
            inflate: std::mem::transmute::<*mut c_void, Run>(inflate),
        })
    }
}

/// Whether the library decodes a small stream, and says where it ends.
fn is_sound(library: Library) -> bool {
    // "podd" four times, and two bytes that follow the stream.
    let stream = [0x2b, 0xc8, 0x4f, 0x49, 0x29, 0x40, 0xc2, 0x00, 0xaa, 0xbb];
    let (mut decoder, mut content) = (Inflate::with(library), [0; 64]);
    let Ok(step) = decoder.decode(&stream, &mut content) else { return false };
    let rest = [step.unused(), &stream[step.read..]].concat();
    step.ended && content[..step.written] == *b"poddpoddpoddpodd" && rest == [0xaa, 0xbb]
}

/// A raw deflate stream (RFC 1951) being decoded.
pub struct Inflate {
    library: Library,
    state: Box<State>,
}

// SAFETY: the state belongs to this value alone, and the library keeps nothing elsewhere.
unsafe impl Send for Inflate {}

/// What one step has done.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Bytes of the input that were taken.
    pub read: usize,
    /// Bytes that were given out.
    pub written: usize,
    /// The stream has ended.
    pub ended: bool,
    unused: [u8; 8],
    unused_len: usize,
}

impl Step {
    /// Bytes that were taken, now or earlier, and lie behind the end of the stream.
    pub fn unused(&self) -> &[u8] {
        &self.unused[..self.unused_len]
    }
}

impl Inflate {
    /// A decoder, if the library was loaded.
    pub fn new() -> Option<Self> {
        LOADED.get().map(|library| Self::with(*library))
    }

    fn with(library: Library) -> Self {
        // SAFETY: all fields are integers, arrays of them, or pointers that may be null.
        let mut state: Box<State> = unsafe { Box::new_zeroed().assume_init() };
        // SAFETY: the state is writable and larger than the library's.
        unsafe { (library.init)(&raw mut *state) };
        Self { library, state }
    }

    /// Begins with another stream.
    pub fn reset(&mut self) {
        // SAFETY: the state was initialised.
        unsafe { (self.library.reset)(&raw mut *self.state) };
    }

    /// Decodes until the stream, the input or the room for output ends.
    pub fn decode(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<Step> {
        let state = &mut *self.state;
        let given = u32::try_from(input.len()).unwrap_or(u32::MAX);
        let room = u32::try_from(output.len()).unwrap_or(u32::MAX);
        (state.next_in, state.avail_in) = (input.as_ptr(), given);
        (state.next_out, state.avail_out) = (output.as_mut_ptr(), room);
        // SAFETY: the state was initialised; input and output are as long as it says, and neither is touched after the call.
        let result = unsafe { (self.library.inflate)(&raw mut *state) };
        (state.next_in, state.next_out) = (std::ptr::null(), std::ptr::null_mut());
        if !GOES_ON.contains(&result) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the deflate stream is corrupt"));
        }
        let ended = state.block_state == FINISH;
        let mut step = Step {
            read: (given - state.avail_in.min(given)) as usize,
            written: (room - state.avail_out.min(room)) as usize,
            ended,
            unused: [0; 8],
            unused_len: 0,
        };
        if ended {
            // What is left of a byte belongs to the stream; whole bytes do not.
            let bits = u32::try_from(state.read_in_length).unwrap_or(0).min(64);
            step.unused = (state.read_in >> (bits % 8)).to_le_bytes();
            step.unused_len = bits as usize / 8;
        }
        Ok(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways are good: a machine without the library must say so.
    #[test]
    fn it_is_loaded_or_named_as_missing() {
        match load() {
            Ok(()) => assert!(Inflate::new().is_some()),
            Err(error) => assert!(error.to_string().contains("libisal2"), "{error}"),
        }
    }

    #[test]
    fn the_state_is_laid_out_as_the_library_has_it() {
        assert_eq!(std::mem::offset_of!(State, read_in_length), 36);
        assert_eq!(std::mem::offset_of!(State, block_state), 21_160);
        assert!(size_of::<State>() >= 256 << 10);
    }
}
