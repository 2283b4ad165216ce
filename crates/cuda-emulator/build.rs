//! Compiles the kernels as plain C++ together with the emulator, three times: into `libcuda.so`, with sanitizers into
//! `libcuda-asan.so`, and with a call at every access (see `races.h`) into `libcuda-races.so`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

const KERNELS: &str = "../kernels/cuda";
const EMULATOR: &str = "src";
// Contraction off: the same sums on every machine.
const FLAGS: &[&str] = &[
    "-std=c++17",
    "-O2",
    "-g",
    "-fPIC",
    "-fvisibility=default",
    "-Wall",
    "-Werror=return-type",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
];
const SANITIZED_FLAGS: &[&str] =
    &["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"];

#[derive(Clone, Copy, PartialEq)]
enum Variant {
    Plain,
    Sanitized,
    Watched,
}

impl Variant {
    const ALL: [Self; 3] = [Self::Plain, Self::Sanitized, Self::Watched];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "libcuda",
            Self::Sanitized => "libcuda-asan",
            Self::Watched => "libcuda-races",
        }
    }

    fn flags(self, is_kernel: bool) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Sanitized => SANITIZED_FLAGS,
            Self::Watched if is_kernel => &["-fsanitize=thread"],
            Self::Watched => &["-DWATCH_RACES"],
        }
    }
}

struct Unit {
    source: PathBuf,
    output: PathBuf,
    variant: Variant,
}

fn main() {
    println!("cargo::rerun-if-env-changed=CXX");
    for watched in ["build.rs", EMULATOR, KERNELS] {
        println!("cargo::rerun-if-changed={watched}");
    }
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // A folder per compiler, so that none links another's units.
    let folder = out.join(compiler.replace(|character: char| !character.is_ascii_alphanumeric(), "_"));
    fs::create_dir_all(&folder).expect("OUT_DIR is writable");
    let mut sources = files(Path::new(KERNELS), &["cu"]);
    sources.extend(files(Path::new(EMULATOR), &["cpp", "cu"]));
    let units: Vec<Unit> = Variant::ALL
        .into_iter()
        .flat_map(|variant| sources.iter().map(move |source| (source, variant)))
        .map(|(source, variant)| Unit {
            source: source.clone(),
            output: folder.join(object_name(source, variant)),
            variant,
        })
        .collect();
    compile_all(&compiler, &units);
    for variant in Variant::ALL {
        link(&compiler, &units, variant, &out);
    }
}

fn object_name(source: &Path, variant: Variant) -> String {
    let folder = if source.starts_with(KERNELS) { "kernels" } else { "emulator" };
    let name = source.file_name().expect("a file").to_string_lossy();
    format!("{folder}-{name}.{}.o", variant.name())
}

/// The folder's files with one of these extensions, sorted; none where there is no such folder.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted)))
        .collect();
    files.sort();
    files
}

fn changed(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|data| data.modified()).unwrap_or_else(|_| SystemTime::now())
}

/// An object newer than its source, all headers and this script is kept: kernels change one at a time.
fn compile_all(compiler: &str, units: &[Unit]) {
    let headers = [KERNELS, EMULATOR].map(|folder| files(Path::new(folder), &["h", "cuh"]));
    let newest = headers.iter().flatten().map(PathBuf::as_path).chain([Path::new("build.rs")]).map(changed).max();
    let newest = newest.expect("at least this script");
    let is_old = |unit: &&Unit| !unit.output.exists() || changed(&unit.output) <= newest.max(changed(&unit.source));
    let old: Vec<&Unit> = units.iter().filter(is_old).collect();
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(unit) = old.get(next.fetch_add(1, Ordering::Relaxed)) {
                    compile(compiler, unit);
                }
            });
        }
    });
}

fn compile(compiler: &str, unit: &Unit) {
    let mut command = Command::new(compiler);
    let is_kernel = unit.source.extension().is_some_and(|extension| extension == "cu");
    command.args(FLAGS).args(unit.variant.flags(is_kernel)).args(["-I", EMULATOR, "-I", KERNELS]);
    // Under another name first: an interrupted build leaves no half object that looks new.
    let unfinished = unit.output.with_extension("unfinished");
    command.args(["-x", "c++", "-c", "-o"]).arg(&unfinished).arg(&unit.source);
    run(command);
    fs::rename(&unfinished, &unit.output).expect("the object is there and the folder is writable");
}

/// `-Bsymbolic`: a kernel named like a function of the C library is still the kernel.
fn link(compiler: &str, units: &[Unit], variant: Variant, folder: &Path) {
    let mut command = Command::new(compiler);
    command.args(["-shared", "-Wl,-soname,libcuda.so", "-Wl,-Bsymbolic", "-pthread"]);
    // The watched one has functions of its own where the thread sanitizer's library would be.
    command.args(variant.flags(false)).arg("-o").arg(folder.join(format!("{}.so", variant.name())));
    command.args(units.iter().filter(|unit| unit.variant == variant).map(|unit| &unit.output));
    run(command);
}

fn run(mut command: Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{messages}");
    for line in messages.lines().filter(|line| !line.trim().is_empty()) {
        println!("cargo::warning={line}");
    }
}
