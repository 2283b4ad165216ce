//! The emulator, used as our code uses a real driver: through `cudarc`.

#![expect(unsafe_code, reason = "the driver API trusts its caller")]
#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "pointers are to live allocations of the sizes that kernels use"
)]

use std::ffi::{CString, c_void};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUresult};

const MISUSE: &str = "SELF_TEST_MISUSE";

/// The device, to one test at a time: captures forbid calls to the whole process.
struct Device {
    stream: sys::CUstream,
    module: sys::CUmodule,
    _turn: MutexGuard<'static, ()>,
}

/// A kernel's argument: a pointer to a value that lives as long as the call.
fn argument<T>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

impl Device {
    fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        moesaic_cuda_emulator::install();
        result::init().expect("cuInit");
        let device = result::device::get(0).expect("a device");
        let image = 0_u8;
        unsafe {
            let context = result::primary_ctx::retain(device).expect("a context");
            result::ctx::set_current(context).expect("the context to be current");
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking).expect("a stream");
            let module = result::module::load_data((&raw const image).cast()).expect("a module");
            Self { stream, module, _turn: turn }
        }
    }

    fn function(&self, name: &str) -> Result<sys::CUfunction, result::DriverError> {
        unsafe { result::module::get_function(self.module, CString::new(name).expect("no zero bytes")) }
    }

    fn launch(&self, name: &str, blocks: u32, threads: u32, shared: u32, arguments: &mut [*mut c_void]) {
        self.try_launch(name, (blocks, 1, 1), threads, shared, arguments).expect("a launch");
    }

    fn try_launch(
        &self,
        name: &str,
        blocks: (u32, u32, u32),
        threads: u32,
        shared: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<(), result::DriverError> {
        let function = self.function(name)?;
        unsafe { result::launch_kernel(function, blocks, (threads, 1, 1), shared, self.stream, arguments) }
    }
}

/// Work that nobody waited for is done all the same.
impl Drop for Device {
    fn drop(&mut self) {
        result::ctx::synchronize().expect("all work");
    }
}

fn watches(what: &str) -> bool {
    std::env::var(moesaic_cuda_emulator::WATCH_VARIABLE).is_ok_and(|watched| watched == what)
}

fn allocate(bytes: usize) -> sys::CUdeviceptr {
    unsafe { result::malloc_sync(bytes) }.expect("an allocation")
}

fn upload<T: Copy>(values: &[T]) -> sys::CUdeviceptr {
    let pointer = allocate(size_of_val(values));
    unsafe { result::memcpy_htod_sync(pointer, values) }.expect("a copy");
    pointer
}

fn download<T: Copy + Default>(pointer: sys::CUdeviceptr, count: usize) -> Vec<T> {
    let mut values = vec![T::default(); count];
    result::ctx::synchronize().expect("all work");
    unsafe { result::memcpy_dtoh_sync(&mut values, pointer) }.expect("a copy");
    values
}

fn code<T>(outcome: Result<T, result::DriverError>) -> CUresult {
    outcome.err().map_or(CUresult::CUDA_SUCCESS, |error| error.0)
}

#[test]
fn the_device_is_an_h100_of_the_emulator() {
    let _device = Device::new();
    let get = |attribute| unsafe { result::device::get_attribute(0, attribute) }.expect("an attribute");
    assert_eq!(result::device::get_count().expect("a count"), 1);
    assert_eq!(result::device::get_name(0).expect("a name"), "moesaic CUDA emulator");
    assert_eq!(get(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR), 9);
    assert_eq!(get(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 132);
    assert_eq!(get(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), 232_448);
}

#[test]
fn blocks_reduce_with_shuffles_and_a_barrier() {
    let device = Device::new();
    let numbers: Vec<f32> = (0_u16..7 * 256).map(|i| f32::from(i % 97)).collect();
    let (from, to) = (upload(&numbers), allocate(7 * 4));
    let expected: Vec<f32> = numbers.chunks(256).map(|block| block.iter().sum()).collect();
    for _ in 0..20 {
        device.launch("self_test_sum", 7, 256, 8 * 4, &mut [argument(&to), argument(&from)]);
        assert_eq!(download::<f32>(to, 7), expected);
    }
    if watches("races") {
        return; // It would be reported.
    }
    device.launch("self_test_sum_without_barrier", 7, 256, 8 * 4, &mut [argument(&to), argument(&from)]);
    assert!(download::<f32>(to, 7).iter().any(|sum| sum.is_nan()), "the missing barrier shows");
}

#[test]
fn collectives_and_atomics_mean_what_they_mean_in_cuda() {
    let device = Device::new();
    let (out, counter) = (allocate(96 * 32), upload(&[0_u64; 2]));
    device.launch("self_test_collectives", 1, 96, 0, &mut [argument(&out), argument(&counter)]);
    for (i, row) in download::<i32>(out, 96 * 8).chunks(8).enumerate() {
        let warp = i / 32 * 32;
        let votes = (0..32).filter(|lane| (warp + lane) % 3 == 0).fold(0_u32, |votes, lane| votes | 1 << lane);
        let bits = votes.count_ones() as i32 + 4 + 31 + 63;
        assert_eq!(row, [warp as i32 + 5, i as i32 ^ 3, i as i32 ^ 1, votes.cast_signed(), bits, 96, 95, 3]);
    }
}

/// The upper half of a small integer's f32 is exact.
fn bf16(value: i16) -> u16 {
    (f32::from(value).to_bits() >> 16) as u16
}

#[test]
fn a_product_of_fragments_is_a_product_of_matrices() {
    let device = Device::new();
    let left = |row: usize, k: usize| ((row * 31 + k * 17) % 23) as i16 - 11;
    let right = |k: usize, column: usize| ((k * 13 + column * 29) % 19) as i16 - 9;
    let a: Vec<u16> = (0..256).map(|i| bf16(left(i / 16, i % 16))).collect();
    let by_columns: Vec<u16> = (0..128).map(|i| bf16(right(i % 16, i / 16))).collect();
    let by_rows: Vec<u16> = (0..128).map(|i| bf16(right(i / 8, i % 8))).collect();
    let cell = |i: usize| (0..16).map(|k| f32::from(left(i / 8, k) * right(k, i % 8))).sum();
    let expected: Vec<f32> = (0..128).map(cell).collect();
    let (c, a) = (allocate(128 * 4), upload(&a));
    for (b, is_row_major) in [(by_columns, 0_i32), (by_rows, 1)] {
        let b = upload(&b);
        let mut arguments = [argument(&c), argument(&a), argument(&b), argument(&is_row_major)];
        device.launch("self_test_product", 1, 32, 768, &mut arguments);
        assert_eq!(download::<f32>(c, 128), expected, "is_row_major = {is_row_major}");
    }
}

#[test]
fn a_copy_arrives_when_it_is_waited_for() {
    let device = Device::new();
    let values: Vec<u32> = (0..256).collect();
    let (from, to) = (upload(&values), allocate(1024));
    let there = 48_u32;
    for waits in [1_i32, 0] {
        let mut arguments = [argument(&to), argument(&from), argument(&there), argument(&waits)];
        device.launch("self_test_copy", 1, 64, 1024, &mut arguments);
        let copied: Vec<u32> = (0..256).map(|i| if i < 48 * 4 { i } else { 0 }).collect();
        let expected = if waits == 1 { copied } else { vec![u32::MAX; 256] };
        assert_eq!(download::<u32>(to, 256), expected, "waits = {waits}");
    }
}

/// So that what the host overwrites or reads too early shows.
#[test]
fn work_is_done_when_it_is_waited_for() {
    let device = Device::new();
    let target = upload(&[0_u32; 2]);
    let (mut first, mut second, mut back) = ([1_u32], [2_u32], [0_u32; 2]);
    unsafe {
        result::memcpy_htod_async(target, &first, device.stream).expect("a copy");
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).expect("an event");
        result::event::record(event, device.stream).expect("a record");
        result::memcpy_htod_async(target + 4, &second, device.stream).expect("a copy");
        result::memcpy_dtoh_async(&mut back, target, device.stream).expect("a copy");
        first[0] = 10;
        result::event::synchronize(event).expect("the event");
        (first[0], second[0]) = (100, 20);
        assert_eq!(std::ptr::read_volatile(&raw const back), [0, 0], "nothing behind the event is done");
        result::stream::synchronize(device.stream).expect("the stream");
        assert_eq!(std::ptr::read_volatile(&raw const back), [10, 20]);
        assert_eq!((first, second), ([100], [20]));
        result::event::destroy(event).expect("the event");
        result::free_sync(target).expect("memory");
    }
}

#[test]
fn a_graph_repeats_what_was_captured() {
    let device = Device::new();
    let (numbers, twin) = (upload(&[1_f32; 64]), allocate(256));
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    let graph = unsafe {
        result::stream::begin_capture(device.stream, mode).expect("a capture");
        for value in [2_f32, 3.0] {
            device.launch("self_test_add", 2, 32, 0, &mut [argument(&numbers), argument(&value)]);
        }
        result::memcpy_dtod_async(twin, numbers, 256, device.stream).expect("a captured copy");
        let graph = result::stream::end_capture(device.stream).expect("a graph");
        result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)).expect("an executable graph")
    };
    assert_eq!(download::<f32>(numbers, 64), [1.0; 64], "a capture runs nothing");
    for round in 1_u8..=3 {
        unsafe { result::graph::launch(graph, device.stream) }.expect("a launch");
        unsafe { result::stream::synchronize(device.stream) }.expect("the end");
        assert_eq!(download::<f32>(twin, 64), [1.0 + 5.0 * f32::from(round); 64]);
    }
    unsafe { result::graph::exec_destroy(graph) }.expect("the graph to go");
}

#[test]
fn a_capture_forbids_waiting_and_allocating() {
    let device = Device::new();
    let numbers = upload(&[1_f32; 64]);
    let attempts: [&dyn Fn() -> CUresult; 4] = [
        &|| code(unsafe { result::malloc_sync(16) }),
        &|| code(unsafe { result::free_sync(numbers) }),
        &|| code(unsafe { result::stream::synchronize(device.stream) }),
        &|| code(unsafe { result::memcpy_htod_sync(numbers, &[0_u8; 4]) }),
    ];
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    for attempt in attempts {
        unsafe { result::stream::begin_capture(device.stream, mode) }.expect("a capture");
        assert_eq!(attempt(), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        let end = code(unsafe { result::stream::end_capture(device.stream) });
        assert_eq!(end, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    }
}

#[test]
fn mistakes_of_the_host_are_errors() {
    let device = Device::new();
    let numbers = upload(&[1_f32; 64]);
    let (free, total) = result::mem_get_info().expect("sizes");
    assert!(free <= total - 256);
    assert_eq!(code(unsafe { result::malloc_sync(free + 1) }), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    assert_eq!(code(device.function("no_such_kernel")), CUresult::CUDA_ERROR_NOT_FOUND);
    assert_eq!(code(unsafe { result::free_sync(numbers + 4) }), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(
        code(unsafe { result::memcpy_htod_sync(numbers + 4, &[0_f32; 64]) }),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
    let value = 1_f32;
    let launch = |blocks, threads, shared| {
        let mut arguments = [argument(&numbers), argument(&value)];
        code(device.try_launch("self_test_add", blocks, threads, shared, &mut arguments))
    };
    assert_eq!(launch((0, 1, 1), 32, 0), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch((1, 65_536, 1), 32, 0), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch((1, 1, 1), 33, 0), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch((1, 1, 1), 2048, 0), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch((1, 1, 1), 64, 100_000), CUresult::CUDA_ERROR_INVALID_VALUE);
    let function = device.function("self_test_add").expect("a kernel");
    let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    unsafe { result::function::set_function_attribute(function, attribute, 100_000) }.expect("more shared memory");
    assert_eq!(launch((1, 1, 1), 64, 100_000), CUresult::CUDA_SUCCESS);
    assert_eq!(download::<f32>(numbers, 64), [2.0; 64]);
    unsafe { result::free_sync(numbers) }.expect("the memory to go");
}

/// Not a test: what `misuse_aborts` runs in a process of its own.
#[test]
fn misuse() {
    let Ok(kind) = std::env::var(MISUSE) else { return };
    let kind: i32 = kind.parse().expect("a number");
    Device::new().launch("self_test_misuse", 1, 64, 1024, &mut [argument(&kind)]);
}

/// Not a test: what `overruns_are_reported` runs. 0: past an allocation; 1: past the shared memory; 2: after a free.
#[test]
fn overrun() {
    let Ok(kind) = std::env::var(MISUSE) else { return };
    let device = Device::new();
    let (numbers, value) = (upload(&[1_f32; 63]), 1_f32);
    let whole = upload(&[1_f32; 64]);
    match kind.as_str() {
        "0" => device.launch("self_test_add", 2, 32, 0, &mut [argument(&numbers), argument(&value)]),
        "1" => device.launch("self_test_sum", 1, 64, 4, &mut [argument(&numbers), argument(&whole)]),
        _ => {
            unsafe { result::free_sync(whole) }.expect("the memory to go");
            device.launch("self_test_add", 2, 32, 0, &mut [argument(&whole), argument(&value)]);
        }
    }
}

#[test]
fn race() {
    let Ok(kind) = std::env::var(MISUSE) else { return };
    let device = Device::new();
    let (out, kind) = (allocate(1024), kind.parse::<i32>().expect("a kind"));
    device.launch("self_test_race", 2, 64, 1024, &mut [argument(&out), argument(&kind)]);
    // And again: what another launch did is over.
    device.launch("self_test_race", 2, 64, 1024, &mut [argument(&out), argument(&kind)]);
}

fn child(test: &str, kind: usize) -> Command {
    let mut child = Command::new(std::env::current_exe().expect("this test's path"));
    child.args([test, "--exact", "--nocapture"]).env(MISUSE, kind.to_string());
    child
}

/// What the child process writes to stderr before it aborts.
fn last_words(mut child: Command) -> String {
    let output = child.output().expect("a child process");
    assert!(!output.status.success(), "{child:?} did not abort");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn misuse_aborts() {
    let expected = [
        "that have ended never reach",
        "the end of the kernel",
        "__syncthreads",
        "a row of load_matrices at byte 8 of shared memory, not a multiple of 16",
        "a row of load_matrices at byte 16384 of the block's 1024 bytes",
        "the target of copy16_async at byte 4 of shared memory",
        "of the block's 1024 bytes",
    ];
    for (kind, message) in expected.into_iter().enumerate() {
        let text = last_words(child("misuse", kind));
        assert!(text.contains("kernel self_test_misuse, block (0, 0, 0), thread "), "kind {kind}: {text}");
        assert!(text.contains(message), "kind {kind}: {text}");
    }
}

#[test]
fn overruns_are_reported() {
    if !watches("addresses") {
        return;
    }
    let expected = [
        ("heap-buffer-overflow", "self_test_add"),
        ("heap-buffer-overflow", "self_test_sum"),
        ("heap-use-after-free", "self_test_add"),
    ];
    for (kind, (report, kernel)) in expected.into_iter().enumerate() {
        let text = last_words(child("overrun", kind));
        assert!(text.contains(report) && text.contains(&format!("in {kernel}")), "kind {kind}: {text}");
    }
}

#[test]
fn races_are_reported() {
    let run = |kind| {
        let mut child = child("race", kind);
        child.env(moesaic_cuda_emulator::WATCH_VARIABLE, "races").env_remove("LD_PRELOAD");
        child
    };
    let shared = "of shared memory 0x";
    let expected = [
        ("reads", shared, "writes"),
        ("reads", shared, "writes"),
        ("writes", "byte 0x", "writes"),
        ("writes", shared, "reads"),
        ("", shared, "changes (atomically)"),
        ("reads", shared, "writes"),
        ("writes", shared, "writes"),
        ("reads", shared, "writes"),
        ("", "byte 0x", ""),
        ("", "byte 0x", "writes"),
        ("", "byte 0x", "writes"),
    ];
    for (kind, (one, place, other)) in expected.into_iter().enumerate() {
        let text = last_words(run(kind));
        let report = text.split_once("a race: it ").unwrap_or_else(|| panic!("kind {kind}: {text}")).1;
        let (report, _) = report.split_once(", with nothing between").expect("the whole report");
        assert!([one, place, other].iter().all(|part| report.contains(part)), "kind {kind}: {report}");
    }
    for kind in 100..104 {
        let output = run(kind).output().expect("a child process");
        assert!(output.status.success(), "kind {kind}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn threads_launch_at_the_same_time() {
    let device = Device::new();
    let (module, context) =
        (device.module as usize, result::ctx::get_current().expect("a context").expect("set") as usize);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || unsafe {
                result::ctx::set_current(context as sys::CUcontext).expect("a context");
                let stream = result::stream::create(result::stream::StreamKind::NonBlocking).expect("a stream");
                let name = CString::new("self_test_sum").expect("no zero bytes");
                let sum = result::module::get_function(module as sys::CUmodule, name).expect("a kernel");
                let (from, to) = (upload(&[1_f32; 512]), allocate(8));
                for _ in 0..50 {
                    let mut arguments = [argument(&to), argument(&from)];
                    result::launch_kernel(sum, (2, 1, 1), (256, 1, 1), 32, stream, &mut arguments).expect("a launch");
                    assert_eq!(download::<f32>(to, 2), [256.0; 2]);
                }
            });
        }
    });
}
