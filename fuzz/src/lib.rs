//! What the targets about layers share: a place, on the tmpfs that tests/fuzz.sh names, in which nothing but the layer's own
//! files may appear. libFuzzer ends without unwinding, so it is for the script to remove it.
//!
//! ```text
//!   $TMPDIR/layers/outside/canary     never touched
//!                 /staging/diff       the layer
//! ```

pub mod archive;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use podd::image::digest::Digest;
use podd::image::extract::{
    Compression, ExtractError, Extracted, FILES, INVENTORY, LayerExpectation, Limits, extract_layer,
};
use podd::image::store::fuzzing::findings;

/// What the canary holds.
const CANARY: &[u8] = b"untouched";

/// The length of the longest path, and the most files: small, so that they are reached.
pub const LIMITS: Limits = Limits {
    max_entries: 200,
    max_path_len: 600,
    max_depth: 24,
    max_unpacked_bytes: 1 << 20,
    max_metadata: 16 << 10,
};

/// The directories of this process.
pub struct Place {
    base: PathBuf,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// A new place, with nothing in its staging directory.
    pub fn new() -> Self {
        let base = std::env::temp_dir().join("layers");
        let place = Self { base };
        let _ = fs::remove_dir_all(&place.base);
        fs::create_dir_all(place.outside()).expect("a directory on tmpfs");
        fs::write(place.outside().join("canary"), CANARY).expect("a file on tmpfs");
        place
    }

    /// Where an attacker would like to write.
    pub fn outside(&self) -> PathBuf {
        self.base.join("outside")
    }

    /// Unpacks a blob whose digests are as they should be if it is a plain tar, looks at what came of it, removes it.
    pub fn unpack(&self, blob: &[u8]) -> Result<Extracted, ExtractError> {
        let staging = self.base.join("staging");
        fs::create_dir(&staging).expect("the staging directory is gone");
        let digest = Digest::of(blob);
        let expected = LayerExpectation { digest: digest.clone(), size: blob.len() as u64, diff_id: digest };
        let result = extract_layer(blob, Compression::None, &expected, &staging, &LIMITS);
        self.check_outside();
        check_staging(&staging, &result);
        fs::remove_dir_all(&staging).expect("the staging directory can be removed");
        result
    }

    fn check_outside(&self) {
        assert_eq!(names(&self.base), ["outside", "staging"]);
        assert_eq!(names(&self.outside()), ["canary"]);
        let canary = self.outside().join("canary");
        assert_eq!(fs::read(&canary).expect("the canary"), CANARY);
        let stat = fs::metadata(&canary).expect("the canary");
        assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.nlink()), (0o644, 0, 1));
    }
}

/// What holds of every layer that was unpacked, and of what is left of one that was not.
fn check_staging(staging: &Path, result: &Result<Extracted, ExtractError>) {
    let mut seen = Seen::default();
    let Ok(extracted) = result else {
        assert!(names(staging).iter().all(|name| name == FILES || name == INVENTORY || name == "discarded"));
        seen.walk(staging, 0);
        return;
    };
    assert_eq!(names(staging), [FILES, INVENTORY]);
    assert_eq!(findings(staging, extracted), Vec::<String>::new());
    seen.walk(&staging.join(FILES), 0);
    assert!(seen.entries <= LIMITS.max_entries && extracted.inodes <= LIMITS.max_entries);
    assert!(seen.entries < extracted.inodes, "{} files where {extracted:?} counts", seen.entries);
    assert!(extracted.bytes <= LIMITS.max_unpacked_bytes);
    let mut parents = Vec::new();
    for implied in &extracted.implied_directories {
        assert!(
            implied.is_relative()
                && implied.components().all(|part| matches!(part, std::path::Component::Normal(_)))
        );
        assert!(
            !parents.iter().any(|later: &PathBuf| later.starts_with(implied)),
            "{implied:?} after its child"
        );
        parents.push(implied.clone());
    }
}

#[derive(Default)]
struct Seen {
    entries: u64,
}

impl Seen {
    fn walk(&mut self, directory: &Path, depth: u32) {
        assert!(depth <= LIMITS.max_depth + 2, "{directory:?}");
        for name in names(directory) {
            self.entries += 1;
            let path = directory.join(&name);
            let stat = fs::symlink_metadata(&path).expect("a file of the layer");
            assert!(stat.len() <= LIMITS.max_unpacked_bytes || stat.file_type().is_block_device());
            if stat.is_dir() {
                self.walk(&path, depth + 1);
            }
        }
    }
}

fn names(directory: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<OsString> =
        entries.map(|entry| entry.expect("an entry of a directory").file_name()).collect();
    names.sort();
    names
}
