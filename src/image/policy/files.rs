//! Where policies lie, and when their files are read again.
//!
//! One policy holds for the node, and a namespace may have one of its own (`<policy_dir>/<namespace>.json`), which then
//! holds instead of it. A file is parsed once and again when it has changed, so that asking costs a stat(2) or two.
//!
//! ```text
//!   policy = ""                      every image is accepted
//!   the default path, never there    every image is accepted, and the log says so at the start
//!   any other file that is missing   everything is refused
//!   a file that is broken            everything that it decides is refused, until it is put right
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::keys::LARGEST_KEY;
use super::{Demand, InvalidPolicy, LARGEST_POLICY, Policy, Refusal, Ruling, Signature};
use crate::config::{DEFAULT_POLICY, ImagesConfig};
use crate::image::reference::Reference;

/// A file that was changed so recently may change once more without its time stamps showing it.
const UNSETTLED: Duration = Duration::from_secs(1);
/// The longest name of a namespace (RFC 1123 label).
const LONGEST_LABEL: usize = 63;

/// All policies of the node.
#[derive(Debug)]
pub struct Policies {
    /// `None`: every image is accepted.
    node: Option<NodePolicy>,
    directory: Option<PathBuf>,
    /// Held for a map operation. Holds no more than there are files.
    known: Mutex<HashMap<PathBuf, Known>>,
}

#[derive(Debug)]
struct NodePolicy {
    path: PathBuf,
    /// Whether it may be missing: only the default one, and only until it was seen.
    optional: AtomicBool,
}

/// A policy and the file that it is from.
#[derive(Debug)]
pub struct PolicyFile {
    /// `None` where there is no file.
    path: Option<PathBuf>,
    policy: Policy,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    policy: Arc<PolicyFile>,
}

/// What changes when a file does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// An image that may not be used, with the policy that says so, or that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A requirement does not hold.
    #[error("image {image} is refused by {}", policy.display())]
    Refused {
        /// The image's name, or its ID.
        image: String,
        /// The policy's file.
        policy: PathBuf,
        /// Why.
        #[source]
        source: Box<Refusal>,
    },
    /// A policy is not there.
    #[error("the signature policy {} is missing: all images are refused until it is there again", .0.display())]
    Missing(PathBuf),
    /// A policy cannot be read.
    #[error("the signature policy {} cannot be read: all images are refused", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// A policy says nothing that makes sense.
    #[error("the signature policy {} is not valid: all images are refused", .0.display())]
    Invalid(PathBuf, #[source] InvalidPolicy),
}

impl Policies {
    /// The policies that the configuration names. Nothing is read yet.
    pub fn new(config: &ImagesConfig) -> Self {
        let some = |path: &Path| (!path.as_os_str().is_empty()).then(|| path.to_owned());
        let node = some(&config.policy).map(|path| {
            let optional = AtomicBool::new(path == Path::new(DEFAULT_POLICY));
            NodePolicy { path, optional }
        });
        Self { node, directory: some(&config.policy_dir), known: Mutex::default() }
    }

    /// Tells the log, once, what holds for images from now on.
    pub fn announce(&self) {
        match self.of(None) {
            Ok(policy) => match &policy.path {
                Some(path) => {
                    tracing::info!(policy = %path.display(), "images are checked by the signature policy")
                }
                None => tracing::info!("there is no signature policy: every image is accepted"),
            },
            Err(error) => {
                let reason = error.source().map(ToString::to_string);
                tracing::error!(reason, "{error}");
            }
        }
    }

    /// What holds for pods of a namespace, or where no namespace is known.
    pub fn of(&self, namespace: Option<&str>) -> Result<Arc<PolicyFile>, PolicyError> {
        let own = self.directory.as_deref().zip(namespace.filter(|name| is_label(name)));
        if let Some((directory, namespace)) = own
            && let Some(policy) = self.read(&directory.join(format!("{namespace}.json")))?
        {
            return Ok(policy);
        }
        let Some(node) = &self.node else { return Ok(PolicyFile::none()) };
        match self.read(&node.path)? {
            Some(policy) => {
                // From now on its absence is an accident.
                node.optional.store(false, Ordering::Relaxed);
                Ok(policy)
            }
            None if node.optional.load(Ordering::Relaxed) => Ok(PolicyFile::none()),
            None => Err(PolicyError::Missing(node.path.clone())),
        }
    }

    /// What is wrong with the node's policy and those of its namespaces; reads all of them.
    pub fn check(&self) -> Vec<PolicyError> {
        let namespaced = self.namespaces();
        let all = [None].into_iter().chain(namespaced.iter().map(|name| Some(name.as_str())));
        all.filter_map(|namespace| self.of(namespace).err()).collect()
    }

    /// Whether any policy of the node may need the signatures of the image one day: a pod of another namespace may use
    /// what this one pulls. Reads the directory of policies.
    pub fn may_ask_for_signatures(&self, image: &Reference) -> bool {
        let asks = |policy: Result<Arc<PolicyFile>, PolicyError>| match policy {
            Ok(policy) => policy.ruling(Some(image)).demand() == Demand::Signatures,
            Err(_) => true,
        };
        asks(self.of(None)) || self.namespaces().iter().any(|name| asks(self.of(Some(name))))
    }

    /// The namespaces that have a policy.
    fn namespaces(&self) -> Vec<String> {
        let entries = self.directory.as_deref().and_then(|directory| fs::read_dir(directory).ok());
        let names =
            entries.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names
            .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
            .filter(|name| is_label(name))
            .collect()
    }

    /// The policy in that file, as it is now; `None` where there is no file.
    fn read(&self, path: &Path) -> Result<Option<Arc<PolicyFile>>, PolicyError> {
        let unreadable = |e| PolicyError::Unreadable(path.to_owned(), e);
        let now = match fs::metadata(path) {
            Ok(metadata) => Stamp::of(&metadata),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.known().remove(path);
                return Ok(None);
            }
            Err(e) => return Err(unreadable(e)),
        };
        if let Some(known) = self.known().get(path)
            && known.stamp == now
        {
            return Ok(Some(Arc::clone(&known.policy)));
        }
        let (text, stamp) = read_bounded(path, LARGEST_POLICY).map_err(unreadable)?;
        let policy = Policy::parse(&text).map_err(|e| PolicyError::Invalid(path.to_owned(), e))?;
        let policy = Arc::new(PolicyFile { path: Some(path.to_owned()), policy });
        if stamp.is_settled() {
            tracing::info!(policy = %path.display(), "read the signature policy");
            self.known().insert(path.to_owned(), Known { stamp, policy: Arc::clone(&policy) });
        }
        Ok(Some(policy))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PolicyFile {
    fn none() -> Arc<Self> {
        Arc::new(Self { path: None, policy: Policy::accept_anything() })
    }

    /// What the policy says about the image of that name.
    pub fn ruling<'a>(&'a self, image: Option<&'a Reference>) -> Ruling<'a> {
        self.policy.ruling(image)
    }

    /// Whether the image may be used; `image` is what it is called in a refusal. Reads the files of keys.
    pub fn decide(
        &self,
        image: &str,
        ruling: &Ruling<'_>,
        signatures: &[Signature],
    ) -> Result<(), PolicyError> {
        let read = |path: &Path| read_bounded(path, LARGEST_KEY as u64).map(|(text, _)| text);
        ruling.decide(signatures, &read).map_err(|source| PolicyError::Refused {
            image: image.to_owned(),
            policy: self.path.clone().unwrap_or_default(),
            source: Box::new(source),
        })
    }
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    /// Whether a further change would show. A clock that was set back only makes the file be read more often.
    fn is_settled(&self) -> bool {
        let (seconds, nanos) = self.changed;
        let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        let changed = seconds + Duration::from_nanos(u64::try_from(nanos).unwrap_or_default());
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + changed).is_ok_and(|age| age > UNSETTLED)
    }
}

/// A regular file of at most `max` bytes, and its stamp from before it was read.
fn read_bounded(path: &Path, max: u64) -> io::Result<(Vec<u8>, Stamp)> {
    // Before it is opened: opening a named pipe would wait.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    let mut text = Vec::new();
    file.by_ref().take(max + 1).read_to_end(&mut text)?;
    match text.len() as u64 > max {
        true => Err(io::Error::other(format!("it is larger than {max} bytes"))),
        false => Ok((text, stamp)),
    }
}

/// Whether a text can be a namespace of Kubernetes (RFC 1123 label), and so is safe as part of a file's name.
fn is_label(text: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.len() <= LONGEST_LABEL
        && !text.is_empty()
        && text.bytes().all(is_inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPT: &str = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
    const REJECT: &str = r#"{"default":[{"type":"reject"}]}"#;

    struct Files {
        directory: tempfile::TempDir,
        policies: Policies,
    }

    impl Files {
        fn new(optional: bool) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("policy.json");
            let node = Some(NodePolicy { path, optional: AtomicBool::new(optional) });
            let policies = Policies {
                node,
                directory: Some(directory.path().join("policies")),
                known: Mutex::default(),
            };
            Self { directory, policies }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("policy.json")
        }

        fn write(&self, text: &str) {
            fs::write(self.path(), text).unwrap();
        }

        fn write_namespace(&self, namespace: &str, text: &str) {
            let directory = self.directory.path().join("policies");
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(format!("{namespace}.json")), text).unwrap();
        }

        /// Whether an image is accepted, or the whole error.
        fn accepts(&self, namespace: Option<&str>) -> Result<(), String> {
            let image = "r.io/a:v1".parse().unwrap();
            let decide = || {
                let policy = self.policies.of(namespace)?;
                policy.decide("r.io/a:v1", &policy.ruling(Some(&image)), &[])
            };
            decide().map_err(|error: PolicyError| {
                let source = error.source().map(ToString::to_string).unwrap_or_default();
                format!("{error}: {source}")
            })
        }
    }

    #[test]
    fn a_missing_file_accepts_only_at_the_default_path_and_only_until_there_was_one() {
        let files = Files::new(true);
        files.accepts(None).unwrap();
        files.write(ACCEPT);
        files.accepts(None).unwrap();
        fs::remove_file(files.path()).unwrap();
        assert!(files.accepts(None).unwrap_err().contains("policy.json is missing"));
        let configured = Files::new(false);
        assert!(configured.accepts(None).unwrap_err().contains("policy.json is missing"));
        let config = crate::config::Config::defaults(Path::new("/r"), Path::new("/s")).images;
        assert!(Policies::new(&config).node.unwrap().optional.into_inner());
        let other = ImagesConfig { policy: "/other.json".into(), ..config.clone() };
        assert!(!Policies::new(&other).node.unwrap().optional.into_inner());
        let none = ImagesConfig { policy: PathBuf::new(), policy_dir: PathBuf::new(), ..config };
        assert!(Policies::new(&none).of(Some("tests")).unwrap().path.is_none());
    }

    #[test]
    fn a_change_counts_at_once_even_within_one_tick_of_the_clock() {
        let files = Files::new(false);
        let same_size = format!("{REJECT}{}", " ".repeat(ACCEPT.len() - REJECT.len()));
        for _ in 0..50 {
            files.write(REJECT);
            assert!(files.accepts(None).unwrap_err().contains("r.io/a:v1 is refused by"));
            files.write(ACCEPT);
            files.accepts(None).unwrap();
            files.write(&same_size);
            files.accepts(None).unwrap_err();
        }
    }

    #[test]
    fn a_file_that_breaks_refuses_and_says_where() {
        let files = Files::new(false);
        files.write(ACCEPT);
        files.accepts(None).unwrap();
        files.write("{");
        let error = files.accepts(None).unwrap_err();
        assert!(error.contains("policy.json is not valid") && error.contains("line 1"), "{error}");
        files.write(&" ".repeat(usize::try_from(LARGEST_POLICY).unwrap() + 1));
        assert!(files.accepts(None).unwrap_err().contains("larger than"));
        fs::remove_file(files.path()).unwrap();
        fs::create_dir(files.path()).unwrap();
        assert!(files.accepts(None).unwrap_err().contains("not a regular file"));
    }

    #[test]
    fn a_parsed_policy_is_kept_for_as_long_as_its_file() {
        let files = Files::new(false);
        files.write(ACCEPT);
        std::thread::sleep(UNSETTLED + Duration::from_millis(50));
        let first = files.policies.of(None).unwrap();
        assert!(Arc::ptr_eq(&first, &files.policies.of(None).unwrap()));
        files.write(REJECT);
        files.accepts(None).unwrap_err();
        fs::remove_file(files.path()).unwrap();
        files.accepts(None).unwrap_err();
        assert!(files.policies.known().is_empty());
    }

    #[test]
    fn a_namespace_has_its_own_policy_and_hostile_ones_have_none() {
        let files = Files::new(false);
        files.write(ACCEPT);
        files.accepts(Some("tests")).unwrap();
        files.write_namespace("tests", REJECT);
        assert!(files.accepts(Some("tests")).unwrap_err().contains("policies/tests.json"));
        files.accepts(Some("other")).unwrap();
        files.accepts(None).unwrap();
        files.write_namespace("broken", "[]");
        assert!(files.accepts(Some("broken")).unwrap_err().contains("policies/broken.json is not valid"));
        fs::write(files.directory.path().join("evil.json"), REJECT).unwrap();
        let long = "a".repeat(64);
        for hostile in
            ["../evil", "", ".", "..", "a/b", "tests\0", "Tests", "-a", "a-", "a.b", "/etc/x", &long]
        {
            files.accepts(Some(hostile)).unwrap();
        }
    }

    #[test]
    fn signatures_are_wanted_if_any_policy_asks_for_them_or_may_once_it_is_repaired() {
        let files = Files::new(false);
        files.write(ACCEPT);
        let image: Reference = "r.io/a:v1".parse().unwrap();
        assert!(!files.policies.may_ask_for_signatures(&image));
        files.write_namespace("of-others", REJECT);
        assert!(!files.policies.may_ask_for_signatures(&image));
        let signed = r#"{"default":[{"type":"reject"}],
            "transports":{"docker":{"r.io":[{"type":"sigstoreSigned","keyPath":"/k"}]}}}"#;
        files.write_namespace("signed", signed);
        assert!(files.policies.may_ask_for_signatures(&image));
        assert!(!files.policies.may_ask_for_signatures(&"s.io/a:v1".parse().unwrap()));
        files.write_namespace("broken", "");
        assert!(files.policies.may_ask_for_signatures(&"s.io/a:v1".parse().unwrap()));
    }
}
