//! The one CUDA driver of this process, and which devices it shows.

#![expect(unsafe_code, reason = "calls into the CUDA driver")]

use std::ffi::{CStr, c_char, c_int};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use kvferry_cuda_sys::{
    CUDA_ERROR_NO_DEVICE, CUDA_SUCCESS, CUdevice, CUresult, CUuuid, Library, candidates, open_any,
};

use super::device::Opened;
use super::{CudaDevice, CudaProblem, Told};
use crate::memory::Device;

static LOADED: Mutex<Option<Cuda>> = Mutex::new(None);

/// Bytes of a device's name that are asked for; longer ones are cut off. The driver's own tools take as many.
const NAME: usize = 256;

/// Bytes of a place on the bus, as `00000000:1B:00.0`, with room.
const BUS: usize = 32;

/// The CUDA driver, begun. Clones are the same.
#[derive(Debug, Clone)]
pub struct Cuda {
    pub(super) driver: Arc<Driver>,
}

/// What is known of a device before it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number among those that this process sees.
    pub device: Device,
    /// Its model.
    pub name: String,
    /// What it is called everywhere.
    pub uuid: [u8; 16],
    /// Where it is on the bus, as `0000:1b:00.0`; empty if the driver does not say.
    pub bus: String,
}

#[derive(Debug)]
pub(super) struct Driver {
    pub(super) library: Library,
    pub(super) devices: Vec<(DeviceInfo, CUdevice)>,
    /// Those that are open: they share their context and streams.
    opened: Mutex<Vec<Weak<Opened>>>,
}

impl Cuda {
    /// Opens the driver of that file, or the first that is found, and counts its devices. It makes no context, so it takes no
    /// device's memory yet. A process has one driver: later calls give the same.
    ///
    /// # Errors
    /// [`CudaProblem::Driver`], [`CudaProblem::OtherDriver`], [`CudaProblem::NoDevice`], or what the driver says.
    pub fn open(file: Option<&Path>) -> Result<Self, CudaProblem> {
        // Whoever panicked here has not stored anything.
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cuda) = &*loaded {
            return match file {
                Some(file) if file.canonicalize().ok().as_deref() != Some(cuda.file()) => {
                    let (asked, loaded) = (file.display().to_string(), cuda.file().display().to_string());
                    Err(CudaProblem::OtherDriver(asked, loaded))
                }
                _ => Ok(cuda.clone()),
            };
        }
        let library =
            open_any(&candidates(file)).map_err(|missing| CudaProblem::Driver(missing.to_string()))?;
        let cuda = Self { driver: Arc::new(Driver::begin(library)?) };
        Ok(loaded.insert(cuda).clone())
    }

    /// The file that was loaded.
    pub fn file(&self) -> &Path {
        self.driver.library.file()
    }

    /// The newest CUDA that the driver speaks, as `12.4`.
    pub fn version(&self) -> String {
        self.driver.library.version().to_string()
    }

    /// The devices that this process sees, by number.
    pub fn devices(&self) -> impl ExactSizeIterator<Item = &DeviceInfo> {
        self.driver.devices.iter().map(|(info, _)| info)
    }

    /// Opens a device. It takes some hundreds of milliseconds and some hundreds of MiB of the device the first time, unless
    /// the process uses it already.
    ///
    /// # Errors
    /// [`CudaProblem::UnknownDevice`], or what the driver says.
    pub fn device(&self, device: Device) -> Result<CudaDevice, CudaProblem> {
        let mut opened = self.driver.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.retain(|known| known.strong_count() > 0);
        if let Some(known) = opened.iter().filter_map(Weak::upgrade).find(|known| known.number == device) {
            return Ok(CudaDevice { opened: known });
        }
        let found = usize::try_from(device.0).ok().and_then(|number| self.driver.devices.get(number));
        let count = u32::try_from(self.driver.devices.len()).unwrap_or(u32::MAX);
        let (info, handle) = found.ok_or(CudaProblem::UnknownDevice(device, count))?;
        let new = Arc::new(Opened::new(&self.driver, info.clone(), *handle)?);
        opened.push(Arc::downgrade(&new));
        Ok(CudaDevice { opened: new })
    }
}

impl Driver {
    fn begin(library: Library) -> Result<Self, CudaProblem> {
        let mut driver = Self { library, devices: Vec::new(), opened: Mutex::default() };
        let no_device = |problem| match problem {
            CudaProblem::Call(told) if told.code == CUDA_ERROR_NO_DEVICE => CudaProblem::NoDevice(told),
            other => other,
        };
        // SAFETY: takes a constant.
        driver.check("cuInit", unsafe { driver.library.cuInit(0) }).map_err(no_device)?;
        let mut count: c_int = 0;
        // SAFETY: a place for a number.
        let counted = unsafe { driver.library.cuDeviceGetCount(&raw mut count) };
        driver.check("cuDeviceGetCount", counted).map_err(no_device)?;
        if count <= 0 {
            return Err(CudaProblem::NoDevice(driver.told("cuDeviceGetCount", CUDA_ERROR_NO_DEVICE)));
        }
        driver.devices = (0..count).map(|number| driver.describe(number)).collect::<Result<_, _>>()?;
        Ok(driver)
    }

    fn describe(&self, number: c_int) -> Result<(DeviceInfo, CUdevice), CudaProblem> {
        let cuda = &self.library;
        let mut device: CUdevice = 0;
        // SAFETY: a place for the device.
        self.check("cuDeviceGet", unsafe { cuda.cuDeviceGet(&raw mut device, number) })?;
        let mut name = [0; NAME];
        // SAFETY: as many bytes as are said, the last of which stays zero.
        let named = unsafe { cuda.cuDeviceGetName(name.as_mut_ptr(), length(NAME) - 1, device) };
        self.check("cuDeviceGetName", named)?;
        let mut uuid = CUuuid { bytes: [0; 16] };
        let asked = match &cuda.later().cuDeviceGetUuid_v2 {
            // SAFETY: a place for the answer.
            Ok(get) => unsafe { get(&raw mut uuid, device) },
            // SAFETY: as above.
            Err(_) => unsafe { cuda.cuDeviceGetUuid(&raw mut uuid, device) },
        };
        self.check("cuDeviceGetUuid", asked)?;
        let mut bus = [0; BUS];
        // SAFETY: as for the name.
        let placed = unsafe { cuda.cuDeviceGetPCIBusId(bus.as_mut_ptr(), length(BUS) - 1, device) };
        let info = DeviceInfo {
            device: Device(u32::try_from(number).expect("it was counted from 0 on")),
            name: text(&name),
            uuid: uuid.bytes.map(|byte| byte.to_ne_bytes()[0]),
            bus: if placed == CUDA_SUCCESS { text(&bus) } else { String::new() },
        };
        Ok((info, device))
    }

    /// What the driver answered, in its words.
    pub(super) fn told(&self, call: &'static str, code: CUresult) -> Told {
        let (name, text) = self.library.describe(code);
        Told { call, code, name, text }
    }

    /// Nothing, if the driver says so.
    pub(super) fn check(&self, call: &'static str, result: CUresult) -> Result<(), CudaProblem> {
        if result == CUDA_SUCCESS { Ok(()) } else { Err(CudaProblem::Call(self.told(call, result))) }
    }
}

fn length(of: usize) -> c_int {
    c_int::try_from(of).expect("some dozens of bytes")
}

/// Up to the first zero: what a driver writes is cut off before the end.
fn text(bytes: &[c_char]) -> String {
    let bytes: Vec<u8> = bytes.iter().map(|byte| byte.to_ne_bytes()[0]).collect();
    CStr::from_bytes_until_nul(&bytes)
        .map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
}
