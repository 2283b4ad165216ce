//! Compiles the GPU kernels where the feature `cuda` asks for them, with the compiler that `cuda/toolkit` finds or brings.

#![allow(clippy::print_stdout, reason = "how build scripts talk to cargo")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const FOLDER: &str = "cuda";

fn main() {
    println!("cargo:rerun-if-changed={FOLDER}");
    println!("cargo:rerun-if-env-changed=NVCC");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let nvcc = compiler();
    let mut sources: Vec<PathBuf> = std::fs::read_dir(FOLDER)
        .expect("the kernels are beside this file")
        .map(|entry| entry.expect("a folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    sources.sort();
    let images: Vec<PathBuf> = std::thread::scope(|scope| {
        let threads: Vec<_> = sources.iter().map(|source| scope.spawn(|| compile(&nvcc, source, &out))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| std::process::exit(1))).collect()
    });
    let mut list = String::from("static IMAGES: &[&[u8]] = &[\n");
    for image in &images {
        // Aligned, since the driver reads the images as words.
        writeln!(list, "    &Aligned(*include_bytes!({:?})).0,", image.to_string_lossy())
            .expect("strings take everything");
    }
    list.push_str("];\n");
    std::fs::write(out.join("images.rs"), list).expect("OUT_DIR can be written");
}

fn compiler() -> String {
    println!("cargo:warning=compiling the GPU kernels (the first time, NVIDIA's compiler is installed in target/)");
    let toolkit = Command::new(format!("{FOLDER}/toolkit")).output().expect("cuda/toolkit runs");
    assert!(toolkit.status.success(), "no CUDA compiler: {}", String::from_utf8_lossy(&toolkit.stderr));
    String::from_utf8(toolkit.stdout).expect("a path in UTF-8").trim().to_owned()
}

/// Machine code for compute capability 8.0 and 9.0a and PTX for later GPUs, in one file; beside it a table of what each
/// kernel uses.
fn compile(nvcc: &str, source: &Path, out: &Path) -> PathBuf {
    let name = source.file_stem().expect("sources have names");
    let image = out.join(name).with_extension("fatbin");
    let result = Command::new(nvcc)
        .args(["-fatbin", "-std=c++17", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v", "--compress-mode=size"])
        .args(["-gencode", "arch=compute_80,code=[sm_80,compute_80]", "-gencode", "arch=compute_90a,code=sm_90a"])
        .arg("-o")
        .args([&image, source])
        .output()
        .expect("nvcc runs");
    let log = String::from_utf8_lossy(&result.stderr).into_owned() + &String::from_utf8_lossy(&result.stdout);
    assert!(result.status.success(), "{}: {log}", source.display());
    std::fs::write(image.with_extension("log"), &log).expect("OUT_DIR can be written");
    // Registers that do not fit are kept in memory, which no kernel of ours can afford.
    let spills = |line: &&str| line.contains("bytes spill stores") && !line.contains(", 0 bytes spill stores");
    let spilled: Vec<&str> = log.lines().filter(spills).collect();
    assert!(spilled.is_empty(), "{} spills registers: {spilled:?}", source.display());
    image
}
