//! Generates the C++ side of the bridge. CMake names the folder where it expects the header.

use std::path::Path;
use std::{env, fs};

fn main() {
    cxx_build::bridge("src/lib.rs").std("c++20").compile("nibble_bridge_cxx");
    println!("cargo:rerun-if-changed=src/lib.rs");
    println!("cargo:rerun-if-env-changed=NIBBLE_HEADER_DIR");
    let (Ok(built), Ok(wanted)) = (env::var("OUT_DIR"), env::var("NIBBLE_HEADER_DIR")) else {
        return;
    };
    let header = Path::new(&built).join("cxxbridge/include/nibble_bridge/src/lib.rs.h");
    let copied = fs::create_dir_all(&wanted)
        .and_then(|()| fs::copy(&header, Path::new(&wanted).join("nibble_bridge.h")));
    if let Err(error) = copied {
        println!("cargo::error=cannot copy {} to {wanted}: {error}", header.display());
    }
}
