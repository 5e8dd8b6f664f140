//! Names, signatures, sizes and numbers against `cuda.h`: what the compiler says of ours and of NVIDIA's is the same.

use std::fmt::Write;
use std::path::PathBuf;

use kvferry_cuda_sys::*;
use kvferry_ffi_testing::{headers, python_folders};

use crate::{CC, required};

/// Folders that may hold a `cuda.h`: the toolkit's own, and those of packages that bring one.
fn found() -> Vec<PathBuf> {
    let packages = ["triton/backends/nvidia/include", "nvidia/cuda_runtime/include", "nvidia/cu13/include"];
    let packages =
        python_folders().into_iter().flat_map(|folder| packages.map(|package| folder.join(package)));
    let all = packages.chain(["/usr/local/cuda/include".into()]);
    let (there, absent): (Vec<PathBuf>, Vec<PathBuf>) =
        all.partition(|folder| folder.join("cuda.h").exists());
    if there.is_empty() { headers(&absent, "cuda.h") } else { there }
}

/// What C calls a type of the bindings.
fn in_c(name: &str) -> String {
    match name {
        "c_int" => "int".into(),
        "c_uint" => "unsigned int".into(),
        "c_char" => "char".into(),
        "c_void" => "void".into(),
        "usize" => "size_t".into(),
        other => match (other.strip_prefix("*mut "), other.strip_prefix("*const ")) {
            (Some(to), _) => format!("{} *", in_c(to)),
            (_, Some(to)) => format!("const {} *", in_c(to)),
            _ => other.into(),
        },
    }
}

#[test]
fn every_function_has_the_signature_of_the_header() {
    let functions = required();
    assert!(functions.len() > 30, "the declarations were not found");
    // A second declaration that differs from the header's is an error in C.
    let mut code = String::from("#include <cuda.h>\n#include <stdio.h>\n");
    for function in &functions {
        let arguments: Vec<String> = function.arguments.iter().map(|name| in_c(name)).collect();
        writeln!(code, "CUresult CUDAAPI {}({});", function.name, arguments.join(", ")).unwrap();
        // What the header calls by its plain name is the symbol that is bound here, and not one of another age.
        let plain = function.name.strip_suffix("_v2").unwrap_or(function.name);
        // Both of this one are bound, and are alike.
        let test = if function.name == "cuDeviceGetUuid" { "cuDeviceGetUuid_v2" } else { function.name };
        writeln!(code, "#define TEXT_(x) #x\n#define TEXT(x) TEXT_(x)").unwrap();
        writeln!(code, "_Static_assert(__builtin_strcmp(TEXT({plain}), \"{test}\") == 0, \"{plain}\");")
            .unwrap();
        code.push_str("#undef TEXT_\n#undef TEXT\n");
    }
    code.push_str("int main(void) { puts(\"compiled 1\"); }\n");
    for (number, include) in found().iter().enumerate() {
        let numbers = CC.numbers(&format!("cuda-signatures-{number}"), &code, include);
        assert_eq!(numbers["compiled"], [1]);
    }
}

macro_rules! facts {
    ($($name:ident)*) => { vec![$((stringify!($name), i64::from($name)),)*] };
}

#[test]
fn every_number_and_size_is_that_of_the_header() {
    let values = facts! {
        CUDA_SUCCESS CUDA_ERROR_INVALID_VALUE CUDA_ERROR_OUT_OF_MEMORY CUDA_ERROR_NOT_INITIALIZED
        CUDA_ERROR_STUB_LIBRARY CUDA_ERROR_DEVICE_UNAVAILABLE CUDA_ERROR_NO_DEVICE CUDA_ERROR_INVALID_DEVICE
        CUDA_ERROR_INVALID_CONTEXT CUDA_ERROR_MAP_FAILED CUDA_ERROR_ECC_UNCORRECTABLE
        CUDA_ERROR_PEER_ACCESS_UNSUPPORTED CUDA_ERROR_OPERATING_SYSTEM CUDA_ERROR_INVALID_HANDLE
        CUDA_ERROR_NOT_READY CUDA_ERROR_ILLEGAL_ADDRESS CUDA_ERROR_TOO_MANY_PEERS
        CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED CUDA_ERROR_LAUNCH_FAILED CUDA_ERROR_NOT_PERMITTED
        CUDA_ERROR_NOT_SUPPORTED CUDA_ERROR_SYSTEM_NOT_READY CUDA_ERROR_SYSTEM_DRIVER_MISMATCH CUDA_ERROR_UNKNOWN
        CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS CU_STREAM_NON_BLOCKING CU_EVENT_DISABLE_TIMING
        CU_MEMHOSTREGISTER_PORTABLE CU_POINTER_ATTRIBUTE_MEMORY_TYPE CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE CU_MEMORYTYPE_DEVICE
    };
    let sizes = [
        ("CUresult", size_of::<CUresult>()),
        ("CUdevice", size_of::<CUdevice>()),
        ("CUdeviceptr", size_of::<CUdeviceptr>()),
        ("CUcontext", size_of::<CUcontext>()),
        ("CUstream", size_of::<CUstream>()),
        ("CUevent", size_of::<CUevent>()),
        ("CUuuid", size_of::<CUuuid>()),
        ("CUipcMemHandle", size_of::<CUipcMemHandle>()),
        ("CUpointer_attribute", size_of::<CUpointer_attribute>()),
    ];
    let mut code = String::from("#include <cuda.h>\n#include <stdio.h>\nint main(void) {\n");
    for (name, _) in &values {
        writeln!(code, "printf(\"{name} %lld\\n\", (long long){name});").unwrap();
    }
    for (name, _) in sizes {
        writeln!(code, "printf(\"{name} %zu %zu\\n\", sizeof({name}), _Alignof({name}));").unwrap();
    }
    code.push_str("}\n");
    for (number, include) in found().iter().enumerate() {
        let theirs = CC.numbers(&format!("cuda-numbers-{number}"), &code, include);
        for (name, value) in &values {
            assert_eq!(theirs[*name], [*value], "{name} in {}", include.display());
        }
        for (name, size) in sizes {
            assert_eq!(theirs[name][0], i64::try_from(size).unwrap(), "{name} in {}", include.display());
        }
        assert_eq!(theirs["CUipcMemHandle"][1], i64::try_from(align_of::<CUipcMemHandle>()).unwrap());
    }
}
