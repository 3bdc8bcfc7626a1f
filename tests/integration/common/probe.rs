//! Programs of one system call, made as bytes: what a filter of system calls does is seen by calling what no shell calls.

use std::env::consts::ARCH;

/// Where the program is loaded.
const BASE: u64 = 0x40_0000;
/// The headers of an ELF file with one segment.
const HEADERS: u64 = 64 + 56;

/// How a program tells of its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The exit code is the error's number, 0 for none.
    Errno,
    /// The exit code is what the call gave, its lowest byte.
    Value,
}

/// A system call by its numbers on x86-64 and on ARM64, with its first argument; the others are 0.
#[derive(Debug, Clone, Copy)]
pub struct Call(pub u32, pub u32, pub u64);

/// A static program that makes the call, and ends.
pub fn program(call: Call, answer: Answer) -> Vec<u8> {
    let (machine, code) = match ARCH {
        "x86_64" => (62u16, x86_64(call, answer)),
        "aarch64" => (183, aarch64(call, answer)),
        other => panic!("no probes for {other}"),
    };
    let size = HEADERS + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2u16, machine].iter().flat_map(|half| half.to_le_bytes()));
    file.extend(1u32.to_le_bytes());
    file.extend([BASE + HEADERS, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 1, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    // One segment, loaded to be read and run.
    file.extend([1u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    file.extend([0, BASE, BASE, size, size, 0x1000].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(code);
    file
}

fn x86_64(Call(number, _, first): Call, answer: Answer) -> Vec<u8> {
    let mut code = vec![0x48, 0xbf];
    code.extend(first.to_le_bytes());
    // The arguments after the first: rsi, rdx, r10, r8, r9.
    code.extend([0x31, 0xf6, 0x31, 0xd2, 0x4d, 0x31, 0xd2, 0x4d, 0x31, 0xc0, 0x4d, 0x31, 0xc9]);
    code.push(0xb8);
    code.extend(number.to_le_bytes());
    code.extend([0x0f, 0x05]);
    code.extend(match answer {
        // neg rax; mov edi, 0; cmovg edi, eax
        Answer::Errno => vec![0x48, 0xf7, 0xd8, 0xbf, 0, 0, 0, 0, 0x48, 0x85, 0xc0, 0x0f, 0x4f, 0xf8],
        // mov edi, eax
        Answer::Value => vec![0x89, 0xc7],
    });
    // exit(edi)
    code.extend([0xb8, 60, 0, 0, 0, 0x0f, 0x05]);
    code
}

fn aarch64(Call(_, number, first): Call, answer: Answer) -> Vec<u8> {
    let part = |n: u32| (first >> (16 * n)) as u32 & 0xffff;
    let mut code = vec![0xd280_0000 | part(0) << 5];
    // movk x0, part, lsl 16 * n
    code.extend((1..4).map(|n| 0xf280_0000 | n << 21 | part(n) << 5));
    // movz x1 to x5, 0; movz x8, number; svc 0
    code.extend((1..6).map(|register| 0xd280_0000 | register));
    code.extend([0xd280_0008 | number << 5, 0xd400_0001]);
    if answer == Answer::Errno {
        // neg x0, x0; cmp x0, 0; csel x0, x0, xzr, gt
        code.extend([0xcb00_03e0, 0xf100_001f, 0x9a9f_c000]);
    }
    // movz x8, 93 (exit); svc 0
    code.extend([0xd280_0ba8, 0xd400_0001]);
    code.iter().flat_map(|word| word.to_le_bytes()).collect()
}
