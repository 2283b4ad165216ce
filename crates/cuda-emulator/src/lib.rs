//! A CUDA driver in software, for tests on machines without a GPU: the project's kernels, compiled as plain C++, run
//! on the CPU behind the driver API's functions.
//!
//! Invariant: nothing that ships depends on this crate. After [`install`] the process has a library with the soname
//! `libcuda.so`, which `cudarc` then finds by that name before any real driver.

use std::path::Path;
use std::sync::OnceLock;

use libloading::Library;

/// Chooses the library that AddressSanitizer watches. The process must then have been started with the sanitizer's
/// runtime preloaded.
pub const ASAN_VARIABLE: &str = "MOESAIC_EMULATOR_ASAN";

const PLAIN: &str = concat!(env!("OUT_DIR"), "/libcuda.so");
const SANITIZED: &str = concat!(env!("OUT_DIR"), "/libcuda-asan.so");

/// Where the libraries are, for processes of their own: with this folder in their `LD_LIBRARY_PATH` they find the driver.
///
/// # Panics
///
/// Never.
pub fn folder() -> &'static Path {
    Path::new(PLAIN).parent().expect("a library is in a folder")
}

/// Loads the emulated driver, for the rest of the process. Call it before anything uses CUDA; later calls do nothing.
///
/// # Panics
///
/// Where the library cannot be loaded.
pub fn install() {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let path = if std::env::var_os(ASAN_VARIABLE).is_some() { SANITIZED } else { PLAIN };
        load(path).unwrap_or_else(|error| panic!("cannot load the CUDA emulator: {error}"))
    });
}

#[expect(unsafe_code, reason = "loading a library runs its initialisers")]
fn load(path: &str) -> Result<Library, libloading::Error> {
    // SAFETY: the library is this crate's own; its initialisers only list the kernels.
    unsafe { Library::new(path) }
}
