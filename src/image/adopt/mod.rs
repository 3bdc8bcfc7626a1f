//! Images of the runtime that a node had before: taken over without a network.
//!
//! containerd keeps the compressed layers, so those are unpacked and verified as in a pull. containers-storage (CRI-O)
//! keeps the unpacked files, in the very form that podd has: they are shared by reflink or hard link, or copied.
//!
//! The other store is only read, whether or not its owner runs; what changes meanwhile makes one image fail, and the next
//! run takes it. A hard link shares the file itself: neither store ever writes into a file of a layer.

mod bolt;
mod containerd;
mod error;
mod layers;
mod share;
mod split;
mod storage;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;

pub use self::error::AdoptError;
use self::layers::{Layer, Taking};
use super::assemble::{Plan, assemble};
use super::digest::Digest;
use super::extract::Limits;
use super::reference::Reference;
use super::store::{Store, chain_ids};
use crate::sys::namespace;

/// Where the two keep their images by default.
const CONTAINERD: &str = "/var/lib/containerd";
const CRIO: &str = "/var/lib/containers/storage";

/// Whose images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// containerd, with its overlayfs snapshotter.
    Containerd,
    /// CRI-O, podman and skopeo: containers-storage with its overlay driver.
    Crio,
}

/// How the files of a layer are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// New files that share their content's blocks (btrfs, XFS).
    Reflink,
    /// The same files under a second name.
    Hardlink,
    /// New files; where the layer's archive can be had, it is unpacked and verified.
    Copy,
}

/// How one layer was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Unpacked from its blob, and verified.
    Blob,
    /// Unpacked from an archive made again of its files, and verified.
    Split,
    /// Taken file by file.
    Tree(Mode),
}

/// What to take over, and how.
#[derive(Debug, Clone)]
pub struct AdoptOptions {
    /// Whose images; `None`: of whoever has a store here.
    pub from: Option<Peer>,
    /// The other store's directory; `None`: where that runtime has it by default.
    pub root: Option<PathBuf>,
    /// How files are taken; `None`: the cheapest way that there is.
    pub mode: Option<Mode>,
    /// Compare the files that are shared with the image's diffIDs.
    pub verify: bool,
    /// Change nothing.
    pub dry_run: bool,
    /// Keep the kubelet's garbage collection from all of them.
    pub pinned: bool,
    /// Names or IDs; empty: all.
    pub images: Vec<String>,
    /// How many layers are taken at a time.
    pub parallel: NonZeroUsize,
    /// What a layer may ask for.
    pub limits: Limits,
}

/// An image that was, or would be, taken over.
#[derive(Debug, Clone)]
pub struct Adopted {
    /// Its ID.
    pub id: Digest,
    /// The names it has now.
    pub names: BTreeSet<String>,
    /// How many layers it has.
    pub layers: usize,
    /// How many of them were not here.
    pub taken: usize,
    /// The ways by which those came.
    pub ways: BTreeSet<Way>,
    /// What the files of those take; of a dry run, what their blobs have.
    pub bytes: u64,
}

/// What became of one image.
#[derive(Debug)]
pub struct Outcome {
    /// What the other runtime calls it.
    pub name: String,
    /// The image, or why it was not taken.
    pub result: Result<Adopted, AdoptError>,
}

/// An image of another store.
struct Candidate {
    names: Vec<(Reference, Option<Digest>)>,
    config: Vec<u8>,
    manifest: Vec<u8>,
    pinned: bool,
    layers: Vec<Layer>,
}

/// Takes images over, one after the other; one that fails does not stop the others. Blocks.
///
/// `seen` hears of each as it is done.
pub fn adopt(
    store: &Store,
    options: &AdoptOptions,
    mut seen: impl FnMut(&Outcome) + Send,
) -> Result<Vec<Outcome>, AdoptError> {
    let (peer, root) = locate(options)?;
    if peer == Peer::Crio && options.mode != Some(Mode::Copy) {
        // containers-storage mounts this directory on itself while it is in use, which would be in the way of links.
        let below = namespace::beneath_own_bind_mount(&root.join("overlay"), || {
            all(store, options, storage::find(&root)?, &mut seen)
        });
        if let Ok(outcomes) = below {
            return outcomes;
        }
    }
    let found = match peer {
        Peer::Containerd => containerd::find(&root)?,
        Peer::Crio => storage::find(&root)?,
    };
    all(store, options, found, &mut seen)
}

fn all(
    store: &Store,
    options: &AdoptOptions,
    found: Vec<Found>,
    seen: &mut impl FnMut(&Outcome),
) -> Result<Vec<Outcome>, AdoptError> {
    let mut outcomes = Vec::new();
    for (name, candidate) in merge(found) {
        if !options.images.is_empty()
            && !options.images.iter().any(|wanted| is_meant(wanted, &name, &candidate))
        {
            continue;
        }
        let result = candidate.and_then(|candidate| one(store, &candidate, options));
        let outcome = Outcome { name, result };
        seen(&outcome);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// Which store, and where.
fn locate(options: &AdoptOptions) -> Result<(Peer, PathBuf), AdoptError> {
    let root = |default: &str| options.root.clone().unwrap_or_else(|| PathBuf::from(default));
    let (containerd, crio) = (root(CONTAINERD), root(CRIO));
    let wanted = |peer| options.from.is_none_or(|from| from == peer);
    let is_containerd = wanted(Peer::Containerd) && containerd::is_here(&containerd);
    let is_crio = wanted(Peer::Crio) && storage::is_here(&crio);
    match (is_containerd, is_crio) {
        (true, true) => Err(AdoptError::TwoStores),
        (true, false) => Ok((Peer::Containerd, containerd)),
        (false, true) => Ok((Peer::Crio, crio)),
        (false, false) if options.from == Some(Peer::Crio) => Err(AdoptError::NoStore(crio)),
        (false, false) => Err(AdoptError::NoStore(containerd)),
    }
}

/// An image by the name that the other runtime has for it, or what is wrong with it.
type Found = (String, Result<Candidate, AdoptError>);

/// One image for each that the other store has under several names.
fn merge(found: Vec<Found>) -> Vec<Found> {
    let mut merged: Vec<Found> = Vec::new();
    for (name, candidate) in found {
        let Ok(candidate) = candidate else {
            merged.push((name, candidate));
            continue;
        };
        let same = merged.iter_mut().find_map(|(_, other)| match other {
            Ok(other) if other.config == candidate.config => Some(other),
            Ok(_) | Err(_) => None,
        });
        match same {
            Some(other) => {
                other.names.extend(candidate.names);
                other.pinned |= candidate.pinned;
            }
            None => merged.push((name, Ok(candidate))),
        }
    }
    merged
}

/// Whether the operator's word means this image.
fn is_meant(wanted: &str, name: &str, candidate: &Result<Candidate, AdoptError>) -> bool {
    let Ok(candidate) = candidate else { return wanted == name };
    let prefix = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    if !prefix.is_empty() && Digest::of(&candidate.config).hex().starts_with(prefix) {
        return true;
    }
    let Ok(reference) = wanted.parse::<Reference>() else { return false };
    candidate.names.iter().any(|(name, digest)| {
        *name == reference
            || (digest.is_some() && reference.digest() == digest.as_ref() && reference.name() == name.name())
    })
}

fn one(store: &Store, candidate: &Candidate, options: &AdoptOptions) -> Result<Adopted, AdoptError> {
    let directory = store.inner().root.join("staging");
    if options.dry_run {
        return plan_only(store, candidate, options, &directory);
    }
    let plan = Plan {
        names: candidate.names.clone(),
        config: candidate.config.clone(),
        manifest: candidate.manifest.clone(),
        size: candidate.layers.iter().map(|layer| layer.size).sum::<u64>() + candidate.config.len() as u64,
        pinned: options.pinned || candidate.pinned,
        diff_ids: candidate.layers.iter().map(|layer| layer.diff_id.clone()).collect(),
        parallel: options.parallel,
    };
    let taking = Taking {
        layers: &candidate.layers,
        mode: options.mode,
        verify: options.verify,
        limits: &options.limits,
        store: &directory,
        ways: Mutex::default(),
        bytes: AtomicU64::new(0),
    };
    let assembled = assemble(store, &plan, &taking)?;
    let image = assembled.image;
    Ok(Adopted {
        id: image.id.clone(),
        names: image.tags.union(&image.repo_digests).cloned().collect(),
        layers: candidate.layers.len(),
        taken: assembled.made,
        ways: taking.ways.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect(),
        bytes: taking.bytes.into_inner(),
    })
}

/// What would be done.
fn plan_only(
    store: &Store,
    candidate: &Candidate,
    options: &AdoptOptions,
    directory: &Path,
) -> Result<Adopted, AdoptError> {
    let diff_ids: Vec<Digest> = candidate.layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let chain = chain_ids(&diff_ids);
    let missing = candidate.layers.iter().zip(&chain).filter(|(_, chain)| store.layer(chain).is_none());
    let (mut taken, mut bytes, mut ways) = (0, 0, BTreeSet::new());
    for (layer, _) in missing {
        ways.insert(layer.way(options.mode, directory)?);
        taken += 1;
        bytes += layer.size;
    }
    let names = candidate.names.iter().filter(|(name, _)| name.digest().is_none());
    Ok(Adopted {
        id: Digest::of(&candidate.config),
        names: names.map(|(name, _)| name.to_string()).collect(),
        layers: candidate.layers.len(),
        taken,
        ways,
        bytes,
    })
}
