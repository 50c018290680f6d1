//! Maps inside an array of maps, replaced many at once: the kernel waits for the programs that use the
//! former ones after each call, and aya has a call for each.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const MAP_UPDATE_BATCH: libc::c_int = 26;
const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_LPM_TRIE: u32 = 11;
/// The kernel has no trie whose entries are allocated beforehand.
const NO_PREALLOC: u32 = 1;

#[repr(C)]
#[derive(Default)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    elem_flags: u64,
    flags: u64,
}

/// An array that holds this value alone.
///
/// # Errors
/// What the kernel answers.
pub fn array_of(value: &[u8]) -> io::Result<OwnedFd> {
    let map = create(Create {
        map_type: MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: value.len() as u32,
        max_entries: 1,
        ..Create::default()
    })?;
    update(map.as_fd(), &0u32.to_ne_bytes(), value)?;
    Ok(map)
}

/// A trie in which the longest of these prefixes that an address has decides; see [`convey_bpf::tables::network`].
///
/// # Errors
/// What the kernel answers.
pub fn trie_of(entries: &[([u8; 20], u32)]) -> io::Result<OwnedFd> {
    let map = create(Create {
        map_type: MAP_TYPE_LPM_TRIE,
        key_size: 20,
        value_size: 4,
        max_entries: entries.len().max(1) as u32,
        flags: NO_PREALLOC,
    })?;
    for (network, value) in entries {
        update(map.as_fd(), network, &value.to_ne_bytes())?;
    }
    Ok(map)
}

/// Takes a map out of an array of maps, if there is one.
///
/// # Errors
/// What the kernel answers.
pub fn remove(outer: BorrowedFd<'_>, at: u32) -> io::Result<()> {
    let mut element = Element {
        map: outer.as_raw_fd().cast_unsigned(),
        key: (&raw const at).addr() as u64,
        ..Element::default()
    };
    match bpf(MAP_DELETE_ELEM, &mut element) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn create(mut attribute: Create) -> io::Result<OwnedFd> {
    let fd = bpf(MAP_CREATE, &mut attribute)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The key and value are as long as the map's.
fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut element = Element {
        map: map.as_raw_fd().cast_unsigned(),
        key: key.as_ptr().addr() as u64,
        value: value.as_ptr().addr() as u64,
        ..Element::default()
    };
    bpf(MAP_UPDATE_ELEM, &mut element).map(|_| ())
}

/// Puts these arrays into an array of maps. Afterwards no program uses those they replace.
///
/// # Errors
/// What the kernel answers; some may have been replaced.
pub fn replace(outer: BorrowedFd<'_>, inner: &[(u32, OwnedFd)]) -> io::Result<()> {
    let keys: Vec<u32> = inner.iter().map(|(key, _)| *key).collect();
    let values: Vec<u32> = inner.iter().map(|(_, map)| map.as_raw_fd().cast_unsigned()).collect();
    let mut batch = Batch {
        keys: keys.as_ptr().addr() as u64,
        values: values.as_ptr().addr() as u64,
        count: inner.len() as u32,
        map: outer.as_raw_fd().cast_unsigned(),
        ..Batch::default()
    };
    if bpf(MAP_UPDATE_BATCH, &mut batch).is_ok() {
        return Ok(());
    }
    // Older kernels have no such call for arrays of maps.
    for (key, value) in keys.iter().zip(&values) {
        let mut element = Element {
            map: outer.as_raw_fd().cast_unsigned(),
            key: std::ptr::from_ref(key).addr() as u64,
            value: std::ptr::from_ref(value).addr() as u64,
            ..Element::default()
        };
        bpf(MAP_UPDATE_ELEM, &mut element)?;
    }
    Ok(())
}

fn bpf<T>(command: libc::c_int, attribute: &mut T) -> io::Result<i32> {
    // SAFETY: the attribute is laid out as the kernel's for this command, of the size told, and what it points to
    // lives in the caller until the call returns.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
