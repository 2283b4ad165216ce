//! A CUDA driver in software, for tests on machines without a GPU: the project's kernels, compiled as plain C++, run
//! on the CPU behind the driver API's functions.
//!
//! Invariant: nothing that ships depends on this crate. After [`install`] the process has a library with the soname
//! `libcuda.so`, which `cudarc` then finds by that name before any real driver.

use std::path::Path;
use std::sync::OnceLock;

use libloading::Library;

/// Chooses what is watched for: `addresses` (by AddressSanitizer, whose runtime must then have been preloaded when the
/// process was started, and for undefined behaviour) or `races`. Without it, nothing is.
pub const WATCH_VARIABLE: &str = "MOESAIC_EMULATOR_WATCH";

const PLAIN: &str = concat!(env!("OUT_DIR"), "/libcuda.so");
const SANITIZED: &str = concat!(env!("OUT_DIR"), "/libcuda-asan.so");
const WATCHED: &str = concat!(env!("OUT_DIR"), "/libcuda-races.so");

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
/// Where the library cannot be loaded, and where [`WATCH_VARIABLE`] has another value.
pub fn install() {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let path = match std::env::var(WATCH_VARIABLE).as_deref() {
            Err(_) => PLAIN,
            Ok("addresses") => SANITIZED,
            Ok("races") => WATCHED,
            Ok(other) => panic!("{WATCH_VARIABLE}={other}: it is addresses or races"),
        };
        load(path).unwrap_or_else(|error| panic!("cannot load the CUDA emulator: {error}"))
    });
}

#[expect(unsafe_code, reason = "loading a library runs its initialisers")]
fn load(path: &str) -> Result<Library, libloading::Error> {
    // SAFETY: the library is this crate's own; its initialisers only list the kernels.
    unsafe { Library::new(path) }
}
