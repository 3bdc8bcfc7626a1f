//! The floor: fetch | gunzip | untar of each layer, as many at a time as podd does, with nothing hashed and nothing flushed;
//! or flushed at the end, so that the files survive a power cut, as after podd's answer.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use super::cost::{Cost, Meter};
use super::material::Material;

/// As podd's `max_parallel_layers` and containerd's downloads allow for.
const AT_A_TIME: usize = 4;

/// One pull by hand, unpacked with the fastest program there is.
pub fn pull(image: &Material, disk: &Path, flushed: bool) -> Cost {
    let waiting = Mutex::new(image.urls.iter().enumerate());
    let meter = Meter::start(std::process::id());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some((n, url)) = { waiting.lock().unwrap().next() } {
                    let dir = disk.join(n.to_string());
                    fs::create_dir_all(&dir).unwrap();
                    let pipe =
                        "set -o pipefail; curl --silent --fail \"$0\" | igzip -dc | tar -xf - -C \"$1\"";
                    let mut shell = Command::new("bash");
                    assert!(shell.args(["-c", pipe, url]).arg(&dir).status().unwrap().success());
                }
            });
        }
    });
    if flushed {
        rustix::fs::syncfs(fs::File::open(disk).unwrap()).unwrap();
    }
    Cost { memory: f64::NAN, ..meter.stop() }
}
