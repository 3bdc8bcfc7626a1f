//! What a crash leaves at each point, and what the next start makes of it.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use super::*;

/// Everything in the store's directories, by name.
fn content(root: &Path) -> Vec<Vec<String>> {
    let names = |name: &str| {
        let mut names = fs::names(&root.join(name)).unwrap();
        names.sort();
        names
    };
    ["layers", "images", "staging", "containers", "guests"].iter().map(|name| names(name)).collect()
}

/// A store after one pull, to which each test adds what a crash may leave.
fn pulled() -> (tempfile::TempDir, Arc<Image>) {
    let root = tempfile::tempdir().unwrap();
    let image = pull(&reopen(root.path()), "x:1", &vec![layer("a"), layer("b")]);
    (root, image)
}

#[test]
fn remains_of_a_pull_are_collected() {
    let (root, image) = pulled();
    let before = content(root.path());
    // Stopped while unpacking; after a rename; while the record was written; while deleting.
    let path = root.path();
    std::fs::create_dir_all(path.join("staging/1/0/diff/usr/bin")).unwrap();
    std::fs::create_dir_all(path.join("layers").join("c".repeat(64)).join("diff")).unwrap();
    std::fs::write(path.join("layers").join("c".repeat(64)).join(layer::RECORD), r#"{"bytes":1,"inodes":1}"#)
        .unwrap();
    std::fs::create_dir_all(path.join("layers/unknown")).unwrap();
    std::fs::write(path.join("images/new.json.tmp"), "{").unwrap();
    // By rename, since the thread of the store before may still be looking.
    std::fs::create_dir_all(path.join("discarded/a/b/c")).unwrap();
    std::fs::rename(path.join("discarded"), path.join("trash/1")).unwrap();
    let store = reopen(path);
    assert_eq!(content(path), before);
    assert_eq!(store.images(), [image]);
    assert_eq!(store.usage().inodes, 4);
    assert_trash_empties(path);
}

#[test]
fn damaged_records_are_set_aside_and_the_others_stand() {
    let (root, image) = pulled();
    let damage: [fn(&Path, &Image); 5] = [
        |record, _| std::fs::write(record, "{").unwrap(),
        |record, _| std::fs::write(record, "").unwrap(),
        |record, _| {
            let text = std::fs::read_to_string(record).unwrap();
            std::fs::write(record, text.replace("\"config\": \"", "\"config\": \"AAAA")).unwrap();
        },
        |record, _| {
            std::fs::rename(record, record.with_file_name(format!("{}.json", "0".repeat(64)))).unwrap()
        },
        |record, image| {
            let layers = record.parent().unwrap().parent().unwrap().join("layers");
            std::fs::remove_file(layers.join(image.chain[1].hex()).join(layer::RECORD)).unwrap();
        },
    ];
    for (n, damage) in damage.into_iter().enumerate() {
        let other = pull(&reopen(root.path()), "y:1", &vec![layer("own"), layer("other")]);
        damage(&image::path(root.path(), &other.id), &other);
        let store = reopen(root.path());
        assert_eq!(store.images(), [Arc::clone(&image)], "damage {n}");
        assert_eq!((layers_left(&store), store.usage().inodes), (2, 4), "damage {n}");
        assert!(content(root.path())[1].iter().any(|name| name.ends_with(".damaged")));
        drop(store);
        assert_eq!(reopen(root.path()).images().len(), 1);
    }
}

#[test]
fn of_two_that_claim_a_tag_the_newer_has_it() {
    let (root, _) = pulled();
    let store = reopen(root.path());
    let old = store.images().remove(0);
    let new = pull(&store, "x:1", &vec![layer("new")]);
    // As if the daemon had stopped between the two records.
    store.inner.write_image(&old).unwrap();
    drop(store);
    let store = reopen(root.path());
    assert_eq!(store.find("x:1").unwrap().unwrap().id, new.id);
    assert_eq!(store.images().len(), 2);
}

#[test]
fn an_unreadable_hold_is_that_of_no_one() {
    let (root, image) = pulled();
    let container = ContainerId::generate();
    let store = reopen(root.path());
    store.prepare_rootfs(&image, &container).unwrap();
    store.remove(&image.id).unwrap();
    drop(store);
    std::fs::write(root.path().join("containers").join(container.as_str()).join(state::HOLDS), "").unwrap();
    let store = reopen(root.path());
    assert_eq!((store.containers(), layers_left(&store)), (vec![container], 0));
}

const OWNER: &str = "PODD_TEST_STORE_OWNER";
const GUEST: &str = "PODD_TEST_STORE_GUEST";

/// Not a test of its own: an owner or a guest that works without end in the directory that the variable names.
#[test]
fn child_that_is_killed() {
    let (owner, guest) = (std::env::var(OWNER), std::env::var(GUEST));
    let store = match (&owner, &guest) {
        (Ok(root), _) => reopen(Path::new(root)),
        (_, Ok(root)) => Store::join(Path::new(root)).unwrap(),
        _ => return,
    };
    println!("ready");
    for round in 0u64.. {
        let layers = vec![layer("base"), layer(&(round % 3).to_string()), layer(&(round % 5).to_string())];
        let Some(image) = try_pull(&store, &format!("x:{}", round % 2), &layers) else { continue };
        if owner.is_ok() {
            let container = ContainerId::generate();
            let prepared = store.prepare_rootfs(&image, &container);
            if round % 3 == 0 || prepared.is_err() {
                store.remove_rootfs(&container).unwrap();
            }
        }
        if round % 4 == 3 {
            store.remove(&image.id).unwrap();
        }
    }
}

/// A layer of an image that another process removes in mid-pull is missing at the commit; nothing else may go wrong.
fn try_pull(store: &Store, tag: &str, layers: &Layers) -> Option<Arc<Image>> {
    let staging = store.stage().unwrap();
    let mut new = unpack(store, &staging, layers);
    new.tag = Some(tag.to_owned());
    match store.commit_image(&staging, new) {
        Ok(image) => Some(image),
        Err(StoreError::NoLayer(_)) => None,
        Err(error) => panic!("{error:?}"),
    }
}

/// A process of this test binary that works in the store; it is ready when this returns.
struct Worker(std::process::Child);

impl Worker {
    fn start(role: &str, root: &Path) -> Self {
        let test = "image::store::tests::crash::child_that_is_killed";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(role, root)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("ready") {
            line.clear();
            assert!(io::BufRead::read_line(&mut output, &mut line).unwrap() > 0, "the child ended early");
        }
        Self(child)
    }

    /// Ends it after that time, which is the test's input and not something that is waited for.
    fn kill_after(mut self, millis: u64) {
        std::thread::sleep(Duration::from_millis(millis));
        self.0.kill().unwrap();
        assert_eq!(self.0.wait().unwrap().signal(), Some(9), "it had ended by itself");
    }
}

/// A real process, killed at random points: whatever it leaves, the next start has whole images only and no garbage.
#[test]
fn kill_at_any_point() {
    let root = tempfile::tempdir().unwrap();
    for round in 0u64..20 {
        Worker::start(OWNER, root.path()).kill_after(round * 7 % 60);
        check(&reopen(root.path()), root.path());
    }
}

/// An owner and two guests, killed one after the other.
#[test]
fn kill_several_at_any_point() {
    let root = tempfile::tempdir().unwrap();
    for round in 0u64..12 {
        let mut workers: Vec<Worker> =
            [GUEST, OWNER, GUEST].iter().map(|role| Worker::start(role, root.path())).collect();
        for n in [round % 3, round % 2, 0] {
            workers.remove(n as usize).kill_after(round * 11 % 50);
        }
        check(&reopen(root.path()), root.path());
    }
}

/// The owner lives on when guests are killed.
#[test]
fn an_owner_clears_up_after_killed_guests() {
    let root = tempfile::tempdir().unwrap();
    let owner = reopen(root.path());
    for round in 0u64..12 {
        let guest = Worker::start(GUEST, root.path());
        pull(&owner, "y:1", &vec![layer("base"), layer("0"), layer(&round.to_string())]);
        guest.kill_after(round * 13 % 50);
        owner.images();
        // A process that another test is just starting may still hold a copy of the guest's lock, until its exec.
        let end = Instant::now() + Duration::from_secs(10);
        while !fs::names(&root.path().join("guests")).unwrap().is_empty() {
            assert!(Instant::now() < end, "the guest's directory stays");
            owner.inner.collect().unwrap();
        }
        check(&owner, root.path());
    }
}

fn check(store: &Store, root: &Path) {
    let mut known: Vec<ChainId> = store.images().iter().flat_map(|image| image.chain.clone()).collect();
    known.extend(store.inner.state().holds.values().flatten().cloned());
    known.sort();
    known.dedup();
    let mut names: Vec<String> = known.iter().map(|chain| chain.hex().to_owned()).collect();
    names.sort();
    let content = content(root);
    assert_eq!(content[0], names);
    assert!(content[1].iter().all(|name| !name.ends_with(".damaged")), "{:?}", content[1]);
    assert_eq!((&content[2], &content[4]), (&Vec::new(), &Vec::new()), "nothing is left of pulls and guests");
    assert_eq!(store.usage(), walked(root));
    for image in store.images() {
        assert_eq!(store.read_file(&image, "base", 10).unwrap().as_deref(), Some(b"base".as_slice()));
    }
    let mut tags: Vec<String> = store.images().iter().flat_map(|image| image.tags.clone()).collect();
    let all = tags.len();
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), all, "a tag belongs to one image");
    for container in store.containers() {
        store.remove_rootfs(&container).unwrap();
    }
    assert_trash_empties(root);
}

/// What a walk over all layers finds.
fn walked(root: &Path) -> Usage {
    let mut usage = Usage::default();
    let layers = root.join("layers");
    let mut directories: Vec<_> =
        fs::names(&layers).unwrap().iter().map(|name| layers.join(name).join(FILES)).collect();
    while let Some(directory) = directories.pop() {
        usage.inodes += 1;
        for entry in std::fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            } else {
                usage.inodes += 1;
                usage.bytes += entry.metadata().unwrap().len().next_multiple_of(4096);
            }
        }
    }
    usage
}
