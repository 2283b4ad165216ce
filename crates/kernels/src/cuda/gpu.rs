//! A GPU: its context, one stream, the kernels and the memory.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Error, Result, bail};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::arena::{ALIGNMENT, Arena};
use super::images::images;

/// bf16 products of matrices and copies in the background begin here.
const MIN_CAPABILITY: (i32, i32) = (8, 0);

/// What the driver says of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuInfo {
    /// The vendor's name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Multiprocessors.
    pub num_multiprocessors: usize,
    /// Bytes of memory in all.
    pub memory_bytes: usize,
    /// Of its multiprocessors.
    pub shared_memory: SharedMemory,
}

/// Shared memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedMemory {
    /// That a block can have.
    pub per_block: usize,
    /// That the blocks on a multiprocessor have together, with what the driver keeps of each.
    pub per_multiprocessor: usize,
}

/// Where temporary results of a step live.
#[derive(Debug)]
enum Workspace {
    /// Each by itself, from the driver: slow, but a memory checker sees the bounds of every tensor.
    Single,
    /// Nowhere: only how much would be needed is found out, and nothing is launched.
    Planned(Arena),
    /// In one piece of memory, at the same places whenever the same step is computed.
    Reserved { arena: Arena, base: sys::CUdeviceptr },
}

/// A launch argument, passed to the kernel by value: of C's layout, without padding, as the kernel declares it.
pub(super) trait Argument {}

impl<T: bytemuck::Pod> Argument for T {}

/// The blocks of a launch, the threads of each and their shared memory in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub blocks: (usize, usize, usize),
    pub threads: usize,
    pub shared_bytes: usize,
}

/// An opened GPU. All work goes to one stream, in the order in which it is given.
pub struct Gpu {
    info: GpuInfo,
    device: sys::CUdevice,
    context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    functions: Mutex<HashMap<&'static str, Function>>,
    workspace: Mutex<Workspace>,
    num_overflows: AtomicUsize,
}

#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: the driver's functions may be called from any thread; the handles are only passed to it, and `bind` makes the
// context current in the calling thread first.
#[expect(unsafe_code, reason = "handles are pointers, which the compiler takes for unshareable")]
unsafe impl Send for Gpu {}
// SAFETY: as above; what changes lies behind mutexes.
#[expect(unsafe_code, reason = "handles are pointers, which the compiler takes for unshareable")]
unsafe impl Sync for Gpu {}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({})", self.info.name)
    }
}

pub(super) fn failed(what: &str) -> impl FnOnce(DriverError) -> Error + '_ {
    move |error| Error::Msg(format!("GPU: {what}: {error}"))
}

impl Gpu {
    /// Opens GPU number `ordinal`.
    ///
    /// # Errors
    /// When there is no driver, no such GPU, or no kernels in this build that fit it.
    pub fn open(ordinal: usize) -> Result<Arc<Self>> {
        // SAFETY: only looks for the library and loads it, as the first call to it would.
        #[expect(unsafe_code, reason = "loads the driver's library")]
        let present = unsafe { sys::is_culib_present() };
        if !present {
            bail!("no NVIDIA driver (libcuda.so.1) was found on this machine");
        }
        result::init().map_err(failed("the driver does not start"))?;
        let count = result::device::get_count().map_err(failed("cannot count devices"))?;
        if ordinal >= count as usize {
            bail!("there is no GPU {ordinal}: the driver shows {count}");
        }
        let device = result::device::get(ordinal as i32).map_err(failed("cannot open the device"))?;
        let info = info(device)?;
        let images = images(&info);
        if images.is_empty() {
            bail!("this build has no GPU kernels: build it with --features cuda");
        }
        if info.capability < MIN_CAPABILITY {
            let (major, minor) = info.capability;
            bail!("{} has compute capability {major}.{minor}; 8.0 or later is needed", info.name);
        }
        // SAFETY: `device` is valid; the context is kept until the drop.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed("cannot make a context"))?;
        let mut gpu = Self {
            info,
            device,
            context,
            stream: std::ptr::null_mut(),
            modules: Vec::new(),
            functions: Mutex::default(),
            workspace: Mutex::new(Workspace::Single),
            num_overflows: AtomicUsize::new(0),
        };
        gpu.bind()?;
        gpu.stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed("cannot make a stream"))?;
        for image in images {
            // SAFETY: an image tells its own length; it was made by the compiler.
            #[expect(unsafe_code, reason = "driver calls on valid handles")]
            let module = unsafe { result::module::load_data(image.as_ptr().cast()) };
            gpu.modules.push(module.map_err(failed("the kernels need a driver of CUDA 13 (580 or later)"))?);
        }
        Ok(Arc::new(gpu))
    }

    /// What it is.
    pub fn info(&self) -> &GpuInfo {
        &self.info
    }

    /// Makes the context current in the calling thread.
    pub(super) fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("the context is lost"))
    }

    /// Bytes of memory that nobody uses.
    ///
    /// # Errors
    /// When the driver does not say.
    pub fn free_bytes(&self) -> Result<usize> {
        self.bind()?;
        Ok(result::mem_get_info().map_err(failed("cannot ask for free memory"))?.0)
    }

    /// Waits until everything given so far is computed.
    ///
    /// # Errors
    /// When some of it failed.
    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream lives as long as `self`.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed("the computation failed"))
    }

    /// Reserves a workspace for what `work` gives to the GPU, which is not computed: launches and copies do nothing
    /// meanwhile, and temporary results have no memory. Gives the workspace's bytes.
    ///
    /// # Errors
    /// Those of `work`, and when there is not as much memory; there is no workspace then.
    pub fn reserve_for<E: From<Error>>(
        &self,
        work: impl FnOnce() -> std::result::Result<(), E>,
    ) -> std::result::Result<usize, E> {
        let before = std::mem::replace(&mut *self.lock(), Workspace::Planned(Arena::new(usize::MAX)));
        if let Workspace::Reserved { arena, base } = before {
            assert!(arena.is_empty(), "nobody uses the workspace that another one replaces");
            self.free(base);
        }
        let worked = work();
        let Workspace::Planned(arena) = std::mem::replace(&mut *self.lock(), Workspace::Single) else {
            unreachable!("it was set above")
        };
        worked?;
        assert!(arena.is_empty(), "planned results are dropped before their workspace is made");
        // Other mixtures of the same sizes leave other gaps.
        let bytes = (arena.peak() + arena.peak() / 16).next_multiple_of(ALIGNMENT).max(ALIGNMENT);
        let base = self.allocate(bytes)?;
        *self.lock() = Workspace::Reserved { arena: Arena::new(bytes), base };
        Ok(bytes)
    }

    /// Whether no temporary result is alive: what a captured step relies on.
    pub fn is_workspace_empty(&self) -> bool {
        match &*self.lock() {
            Workspace::Single => true,
            Workspace::Planned(arena) | Workspace::Reserved { arena, .. } => arena.is_empty(),
        }
    }

    /// How often a temporary result did not fit into the workspace: 0, unless the planning forgot something.
    pub fn num_overflows(&self) -> usize {
        self.num_overflows.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Workspace> {
        self.workspace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory from the driver.
    pub(super) fn allocate(&self, bytes: usize) -> Result<sys::CUdeviceptr> {
        self.bind()?;
        // SAFETY: the memory is unset; whoever reads it has written it first.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe { result::malloc_sync(bytes.max(1)) }
            .map_err(|error| Error::Msg(format!("GPU: no memory for {:.1} MB: {error}", bytes as f64 / 1e6)))
    }

    /// Gives memory from the driver back.
    pub(super) fn free(&self, pointer: sys::CUdeviceptr) {
        // What still uses the memory ends first. Errors tell of earlier failures only.
        let _ = self.synchronize();
        if self.bind().is_ok() {
            // SAFETY: the pointer came from `allocate` and is given back once.
            #[expect(unsafe_code, reason = "driver calls on valid handles")]
            let _ = unsafe { result::free_sync(pointer) };
        }
    }

    /// Memory for a temporary result: its address, and where it lies in the workspace, if it does.
    pub(super) fn allocate_temporary(&self, bytes: usize) -> Result<(sys::CUdeviceptr, Option<usize>)> {
        let mut workspace = self.lock();
        match &mut *workspace {
            Workspace::Single => {
                drop(workspace);
                Ok((self.allocate(bytes)?, None))
            }
            Workspace::Planned(arena) => {
                let offset = arena.allocate(bytes).expect("a planned workspace has no end");
                Ok((offset as sys::CUdeviceptr, Some(offset)))
            }
            Workspace::Reserved { arena, base } => {
                if let Some(offset) = arena.allocate(bytes) {
                    return Ok((*base + offset as sys::CUdeviceptr, Some(offset)));
                }
                // A mixture that was not planned: slower, but no reason to fail.
                drop(workspace);
                self.num_overflows.fetch_add(1, Ordering::Relaxed);
                Ok((self.allocate(bytes)?, None))
            }
        }
    }

    /// Gives a place in the workspace back.
    pub(super) fn release(&self, offset: usize) {
        match &mut *self.lock() {
            Workspace::Planned(arena) | Workspace::Reserved { arena, .. } => arena.release(offset),
            Workspace::Single => {}
        }
    }

    /// Whether launches and copies are only planned.
    pub(super) fn is_planning(&self) -> bool {
        matches!(&*self.lock(), Workspace::Planned(_))
    }

    /// Launches a kernel. The arguments are copied; grids with a dimension of 0 do nothing.
    pub(super) fn launch(&self, name: &'static str, grid: Grid, arguments: &[&dyn Argument]) -> Result<()> {
        let (x, y, z) = grid.blocks;
        if x == 0 || y == 0 || z == 0 || self.is_planning() {
            return Ok(());
        }
        self.bind()?;
        let function = self.function(name)?;
        let mut pointers: Vec<*mut c_void> =
            arguments.iter().map(|argument| std::ptr::from_ref(*argument).cast::<c_void>().cast_mut()).collect();
        let blocks = (x as u32, y as u32, z as u32);
        // SAFETY: the function is loaded, its declared arguments are those given (`Argument`), and all memory that they
        // point to was checked by the caller; the driver copies the arguments before it returns.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe {
            result::launch_kernel(
                function,
                blocks,
                (grid.threads as u32, 1, 1),
                grid.shared_bytes as u32,
                self.stream,
                &mut pointers,
            )
        }
        .map_err(|error| Error::Msg(format!("GPU: cannot launch {name} on {blocks:?} blocks: {error}")))
    }

    /// A kernel, which may use all the shared memory that a block can have.
    fn function(&self, name: &'static str) -> Result<sys::CUfunction> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(function.0);
        }
        let c_name = CString::new(name).expect("kernels' names hold no zero byte");
        // SAFETY: the modules are loaded and stay so.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        let find = |module: &sys::CUmodule| unsafe { result::module::get_function(*module, c_name.clone()) }.ok();
        let Some(handle) = self.modules.iter().find_map(find) else { bail!("this build has no kernel {name}") };
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = self.info.shared_memory.per_block as i32;
        // SAFETY: the function was just found.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe { result::function::set_function_attribute(handle, attribute, bytes) }
            .map_err(|error| Error::Msg(format!("GPU: {name} cannot have {bytes} bytes of shared memory: {error}")))?;
        functions.insert(name, Function(handle));
        Ok(handle)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.bind().is_err() {
            return;
        }
        if let Workspace::Reserved { base, .. } = &*self.lock() {
            self.free(*base);
        }
        // SAFETY: nobody else has these handles any more; errors at the end are of no use to anybody.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe {
            if !self.stream.is_null() {
                let _ = result::stream::synchronize(self.stream);
                let _ = result::stream::destroy(self.stream);
            }
            for module in &self.modules {
                let _ = result::module::unload(*module);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

fn info(device: sys::CUdevice) -> Result<GpuInfo> {
    use sys::CUdevice_attribute as Attribute;
    let attribute = |which: Attribute| {
        // SAFETY: the device is valid.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe { result::device::get_attribute(device, which) }.map_err(failed("the device does not describe itself"))
    };
    // SAFETY: the device is valid.
    #[expect(unsafe_code, reason = "driver calls on valid handles")]
    let memory_bytes = unsafe { result::device::total_mem(device) }.map_err(failed("cannot ask for the memory"))?;
    Ok(GpuInfo {
        name: result::device::get_name(device).map_err(failed("the device has no name"))?,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        num_multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
        memory_bytes,
        shared_memory: SharedMemory {
            per_block: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize,
            per_multiprocessor: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?
                as usize,
        },
    })
}
