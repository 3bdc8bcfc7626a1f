//! One store, several handles of it as several processes would have them: the owner's and guests'.

use super::*;
use crate::image::store::guest::GUESTS;

fn guest(root: &Path) -> Store {
    Store::join(root).unwrap()
}

fn guests_on_disk(root: &Path) -> usize {
    fs::names(&root.join(GUESTS)).unwrap().len()
}

#[test]
fn what_a_guest_commits_is_there_for_the_owner_and_the_reverse() {
    let root = tempfile::tempdir().unwrap();
    let (owner, tool) = (reopen(root.path()), guest(root.path()));
    let image = pull(&tool, "x:1", &vec![layer("a"), layer("b")]);
    assert_eq!(owner.find("x:1").unwrap(), Some(Arc::clone(&image)));
    assert_eq!((owner.images().len(), owner.usage()), (1, Usage { bytes: 2 * 4096, inodes: 4 }));
    let other = pull(&owner, "x:1", &vec![layer("a"), layer("c")]);
    assert_eq!(tool.find("x:1").unwrap().unwrap().id, other.id);
    assert_eq!(tool.find(image.id.as_str()).unwrap().unwrap().tags.len(), 0, "the tag has moved");
    assert!(owner.remove(&image.id).unwrap());
    assert_eq!(tool.images(), [other]);
    assert!(tool.stage().unwrap().reuse(&image.chain[1]).is_none(), "it is no longer there");
    drop(tool);
    assert_eq!((layers_left(&owner), guests_on_disk(root.path())), (2, 0));
    assert_trash_empties(root.path());
}

#[test]
fn the_owner_keeps_what_a_guest_counts_on_and_collects_it_afterwards() {
    let root = tempfile::tempdir().unwrap();
    let (owner, tool) = (reopen(root.path()), guest(root.path()));
    let image = pull(&owner, "x:1", &vec![layer("a"), layer("b")]);
    let lease = {
        assert_eq!(tool.images().len(), 1);
        tool.lease(&image.id).unwrap()
    };
    assert!(owner.remove(&image.id).unwrap());
    assert_eq!(layers_left(&owner), 2);
    assert_eq!(tool.images(), []);
    assert_eq!(tool.read_file(&image, "a", 10).unwrap().as_deref(), Some(b"a".as_slice()));
    // The layer is committed again while it waits for its end.
    let staging = tool.stage().unwrap();
    assert!(staging.reuse(&image.chain[0]).is_some());
    drop((lease, staging, tool));
    assert_eq!((layers_left(&owner), owner.usage()), (0, Usage::default()));
    assert_eq!(guests_on_disk(root.path()), 0);
}

#[test]
fn a_guest_removes_an_image_and_the_owner_its_layers() {
    let root = tempfile::tempdir().unwrap();
    let (owner, tool) = (reopen(root.path()), guest(root.path()));
    let image = pull(&owner, "x:1", &vec![layer("a"), layer("b")]);
    let kept = pull(&owner, "y:1", &vec![layer("a")]);
    assert!(tool.remove(&image.id).unwrap());
    drop(tool);
    assert_eq!(owner.images(), [kept]);
    let end = Instant::now() + Duration::from_secs(10);
    while layers_on_disk(root.path()) > 1 {
        assert!(Instant::now() < end, "the owner does not notice");
        std::thread::yield_now();
    }
}

#[test]
fn guests_work_without_an_owner_and_the_next_owner_finds_all_of_it() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (guest(root.path()), guest(root.path()));
    let layers = vec![layer("a"), layer("b")];
    let staging = second.stage().unwrap();
    let mut new = unpack(&second, &staging, &layers);
    let image = pull(&first, "x:1", &layers);
    // Both have unpacked the same layers.
    new.tag = Some("x:2".into());
    assert_eq!(second.commit_image(&staging, new).unwrap().id, image.id);
    assert_eq!(first.find("x:2").unwrap().unwrap().tags.len(), 2);
    // The owner comes while a guest unpacks.
    let owner = reopen(root.path());
    assert!(staging.layer(0).parent().unwrap().is_dir());
    drop(staging);
    drop((first, second));
    assert_eq!((owner.images().len(), layers_left(&owner), guests_on_disk(root.path())), (1, 2, 0));
    let refused = Store::open(root.path(), KEEP).err().unwrap().to_string();
    assert!(refused.contains("in use by another podd"), "{refused}");
}

#[test]
fn nothing_is_looked_at_twice_and_an_odd_counter_at_every_time() {
    let root = tempfile::tempdir().unwrap();
    let (one, other) = (guest(root.path()), guest(root.path()));
    let image = pull(&one, "x:1", &vec![layer("a")]);
    assert!(other.inner.shared.stale().is_some());
    other.images();
    assert!(other.inner.shared.stale().is_none());
    // As a process leaves it that is killed in mid-change: the record is there, and the counter odd.
    let mut image = (*image).clone();
    image.tags.insert("x:2".into());
    one.inner.write_image(&image).unwrap();
    let counter = std::fs::read(root.path().join("changes")).unwrap();
    let odd = u64::from_le_bytes(counter.try_into().unwrap()) + 1;
    std::fs::write(root.path().join("changes"), odd.to_le_bytes()).unwrap();
    assert!(other.find("x:2").unwrap().is_some());
    assert!(other.inner.shared.stale().is_some(), "it goes on looking");
    drop(one.inner.section().unwrap());
    other.images();
    assert!(other.inner.shared.stale().is_none(), "until the next change puts it right");
}

#[test]
fn layers_without_images_wait_for_the_owner() {
    let root = tempfile::tempdir().unwrap();
    let tool = guest(root.path());
    let image = pull(&tool, "x:1", &vec![layer("a")]);
    assert!(tool.remove(&image.id).unwrap());
    drop(tool);
    assert_eq!(layers_on_disk(root.path()), 1, "a guest takes no layer away");
    let owner = reopen(root.path());
    assert_eq!((layers_left(&owner), guests_on_disk(root.path())), (0, 0));
}

#[test]
fn many_at_once_leave_whole_images_only() {
    let root = tempfile::tempdir().unwrap();
    let owner = reopen(root.path());
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let (owner, root) = (&owner, root.path());
            scope.spawn(move || {
                for round in 0..8 {
                    let store = if worker == 0 { owner.clone() } else { guest(root) };
                    let layers = vec![layer("base"), layer(&(round % 2).to_string())];
                    let image = pull(&store, &format!("x:{worker}"), &layers);
                    if let Some(_lease) = store.lease(&image.id) {
                        let base = store.read_file(&image, "base", 100).unwrap();
                        assert_eq!(base.as_deref(), Some(b"base".as_slice()));
                    }
                    store.remove(&image.id).unwrap();
                }
            });
        }
    });
    for image in owner.images() {
        owner.remove(&image.id).unwrap();
    }
    assert_eq!((layers_left(&owner), owner.usage()), (0, Usage::default()));
    assert_eq!(guests_on_disk(root.path()), 0);
    assert_trash_empties(root.path());
}
