//! Damage of every kind is found, nothing whole is reported, and what is replaced stays under those who stand on it.

use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use tar_core::EntryType;

use super::*;
use crate::image::extract::{INVENTORY, is_counted};
use crate::image::store::repair::RETIRED;

/// One name of each kind, some made more than once.
fn odd_layer() -> Vec<u8> {
    Tar::new()
        .directory("etc", 0o750)
        .file("etc/a", "content")
        .file("etc/empty", "")
        .file("implied/f", "x")
        .symlink("link", "etc")
        .file("link/through", "made in etc")
        .entry("etc/caps", EntryType::Regular, b"c", |e| {
            e.mode(0o4755).unwrap().uid(7).unwrap();
            e.add_pax("SCHILY.xattr.user.k", b"v");
        })
        .file("twice", "first")
        .file("twice", "second")
        .file("was/a/directory", "1")
        .file("was", "now a file")
        .file("etc/.wh.gone", "")
        .file("opaque/.wh..wh..opq", "")
        .entry("hard", EntryType::Link, b"", |e| {
            e.link_name(b"etc/a");
        })
        .entry("fifo", EntryType::Fifo, b"", |_| {})
        .finish()
}

fn problems(store: &Store, image: &Image) -> Vec<String> {
    let findings = image.chain.iter().flat_map(|chain| store.check_layer(chain));
    let mut texts: Vec<String> = findings.map(|f| format!("{} {}", f.path, f.problem)).collect();
    texts.sort();
    texts
}

#[test]
fn what_was_unpacked_is_found_whole() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let image = pull(&store, "x:1", &vec![Tar::new().directory("implied", 0o1777).finish(), odd_layer()]);
    assert_eq!(problems(&store, &image), Vec::<String>::new());
    let empty = pull(&store, "x:2", &vec![Tar::new().finish()]);
    assert_eq!(problems(&store, &empty), Vec::<String>::new());
}

#[test]
fn each_damage_is_found_by_its_name() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let image = pull(&store, "x:1", &vec![odd_layer()]);
    let files = store.inner.files(&image.chain[0]);
    let whole = files.parent().unwrap().to_owned();
    type Damage<'a> = (&'a str, &'a dyn Fn(&Path));
    let cases: [Damage<'_>; 14] = [
        ("etc/a has other content than was unpacked|hard has other content than was unpacked", &|f| {
            std::fs::write(f.join("etc/a"), "CONTENT").unwrap();
        }),
        ("etc/through has 0 bytes instead of 11", &|f| std::fs::write(f.join("etc/through"), "").unwrap()),
        ("twice is missing", &|f| std::fs::remove_file(f.join("twice")).unwrap()),
        ("implied is missing", &|f| std::fs::remove_dir_all(f.join("implied")).unwrap()),
        ("etc/new does not belong to the layer", &|f| std::fs::write(f.join("etc/new"), "").unwrap()),
        ("etc has mode 700 instead of 750", &|f| {
            std::fs::set_permissions(f.join("etc"), PermissionsExt::from_mode(0o700)).unwrap();
        }),
        ("etc/caps belongs to 7:9 instead of 7:0|etc/caps has mode 755 instead of 4755", &|f| {
            chown(f.join("etc/caps"), None, Some(9)).unwrap();
        }),
        ("link leads to \"usr\" instead of \"etc\"", &|f| {
            std::fs::remove_file(f.join("link")).unwrap();
            symlink("usr", f.join("link")).unwrap();
        }),
        ("was is a directory instead of a file", &|f| {
            std::fs::remove_file(f.join("was")).unwrap();
            std::fs::create_dir_all(f.join("was/a")).unwrap();
        }),
        ("etc/gone is missing", &|f| std::fs::remove_file(f.join("etc/gone")).unwrap()),
        ("etc/caps has 2 extended attributes instead of 1", &|f| {
            let file = File::open(f.join("etc/caps")).unwrap();
            assert!(is_counted(b"user.other"));
            fs::set_xattr(file.as_fd(), b"user.other", b"1").unwrap();
        }),
        (" has no usable inventory: it is damaged", &|f| {
            let path = f.with_file_name(INVENTORY);
            let mut log = std::fs::read(&path).unwrap();
            log[20] ^= 1;
            std::fs::write(path, log).unwrap();
        }),
        (" has no usable record: it is missing", &|f| {
            std::fs::remove_file(f.with_file_name(layer::RECORD)).unwrap();
        }),
        (" is missing", &|f| std::fs::remove_dir_all(f.parent().unwrap()).unwrap()),
    ];
    for (expected, damage) in cases {
        let copy = root.path().join("copy");
        let copied = std::process::Command::new("cp").arg("-a").arg(&whole).arg(&copy).status().unwrap();
        assert!(copied.success());
        damage(&files);
        assert_eq!(problems(&store, &image).join("|"), expected);
        let _ = std::fs::remove_dir_all(&whole);
        std::fs::rename(copy, &whole).unwrap();
    }
    assert_eq!(problems(&store, &image), Vec::<String>::new());
}

/// Puts a fresh copy of the topmost layer in the place of what is there.
fn replace(store: &Store, image: &Image, layers: &Layers) -> OldLayer {
    let staging = store.stage().unwrap();
    let (index, tar) = (layers.len() - 1, layers.last().unwrap());
    let digest = Digest::of(tar);
    let expected = LayerExpectation { digest: digest.clone(), size: tar.len() as u64, diff_id: digest };
    let to = staging.layer(index);
    let extracted = extract_layer(&tar[..], Compression::None, &expected, &to, &Limits::default()).unwrap();
    store.replace_layer(&staging, &image.chain, &extracted).unwrap()
}

fn retired(root: &Path) -> usize {
    fs::names(&root.join(RETIRED)).unwrap().len()
}

#[test]
fn a_broken_layer_is_replaced_beside_the_owner() {
    let root = tempfile::tempdir().unwrap();
    let owner = reopen(root.path());
    let layers = vec![Tar::new().directory("implied", 0o1777).finish(), odd_layer()];
    let image = pull(&owner, "x:1", &layers);
    let files = owner.inner.files(&image.chain[1]);
    for (damage, expected) in [
        (&(|| std::fs::write(files.join("etc/a"), "bad").unwrap()) as &dyn Fn(), OldLayer::Discarded),
        (&|| std::fs::remove_dir_all(files.parent().unwrap()).unwrap(), OldLayer::Discarded),
    ] {
        damage();
        let tool = Store::join(root.path()).unwrap();
        assert_ne!(problems(&tool, &image), Vec::<String>::new());
        assert_eq!(replace(&tool, &image, &layers), expected);
        assert_eq!(problems(&tool, &image), Vec::<String>::new());
        drop(tool);
        assert_eq!(std::fs::read(files.join("etc/a")).unwrap(), b"content");
        let mode = std::fs::metadata(files.join("implied")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o1777, "settled against the layers below");
    }
    assert_eq!((layers_left(&owner), retired(root.path())), (2, 0));
    assert_eq!(fs::names(&root.path().join("guests")).unwrap().len(), 0);
}

#[test]
fn a_layer_under_a_container_is_retired_until_it_is_gone_or_a_reboot() {
    let root = tempfile::tempdir().unwrap();
    let owner = reopen(root.path());
    let layers = vec![layer("a")];
    let image = pull(&owner, "x:1", &layers);
    let container = ContainerId::generate();
    owner.prepare_rootfs(&image, &container).unwrap();
    // What a mounted overlay has: the directory itself, whatever its name.
    let mounted = fs::open_directory(&owner.inner.files(&image.chain[0])).unwrap();
    let tool = Store::join(root.path()).unwrap();
    assert_eq!(replace(&tool, &image, &layers), OldLayer::Retired);
    drop(tool);
    owner.inner.collect().unwrap();
    assert_eq!(retired(root.path()), 1);
    assert!(fs::stat_at(mounted.as_fd(), b"a").is_ok(), "nothing is taken from under the container");
    drop(owner);
    let owner = reopen(root.path());
    assert_eq!(retired(root.path()), 1, "a restart changes nothing");
    owner.remove_rootfs(&container).unwrap();
    owner.inner.collect().unwrap();
    assert_eq!((retired(root.path()), layers_left(&owner)), (0, 1));
    // Of an earlier boot.
    owner.prepare_rootfs(&image, &container).unwrap();
    let name = format!("another-boot_{}_1", image.chain[0].hex());
    std::fs::create_dir(root.path().join(RETIRED).join(name)).unwrap();
    owner.inner.collect().unwrap();
    assert_eq!(retired(root.path()), 0);
    assert_trash_empties(root.path());
}

#[test]
fn a_record_that_cannot_be_used_is_named_and_set_aside() {
    let root = tempfile::tempdir().unwrap();
    let owner = reopen(root.path());
    let image = pull(&owner, "x:1", &vec![layer("a")]);
    let path = image::path(root.path(), &image.id);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"config\": \"", "\"config\": \"AAAA")).unwrap();
    let tool = Store::join(root.path()).unwrap();
    let (images, damaged) = tool.recorded().unwrap();
    assert_eq!((images.len(), damaged.len(), damaged[0].names[0].as_str()), (0, 1, "x:1"));
    let aside = tool.set_aside(&damaged[0]).unwrap();
    assert!(aside.exists() && tool.recorded().unwrap().1.is_empty());
    drop(tool);
    assert_eq!(owner.images(), []);
    assert_eq!(layers_left(&owner), 0);
}
