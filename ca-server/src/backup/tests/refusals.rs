//! What is refused, and what is left then.

use super::*;

/// Changes the manifest's JSON.
fn edit_manifest(backup: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = backup.join(MANIFEST);
    let mut json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

/// Gives a file other content, and the manifest the digest that goes with it.
fn replace(backup: &Path, name: &str, content: &[u8]) {
    fs::write(backup.join(name), content).unwrap();
    edit_manifest(backup, |json| {
        let files = json["files"].as_array_mut().unwrap();
        let file = files.iter_mut().find(|file| file["name"] == name).unwrap();
        file["bytes"] = content.len().into();
        file["sha256"] = hex(&sha256(content)).into();
    });
}

fn copied(from: &Path, to: &Path) -> PathBuf {
    for name in files_in(from) {
        fs::create_dir_all(to.join(&name).parent().unwrap()).unwrap();
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
    to.to_owned()
}

#[tokio::test]
async fn each_file_of_a_backup_must_be_there_as_it_was() {
    let server = Server::start(Sealer::plain());
    server.issue(0..5).await;
    let backup = server.backup("backup").await;
    let names = files_in(&backup);
    for (number, name) in names.iter().filter(|name| *name != MANIFEST).enumerate() {
        let copy = copied(&backup, &server.path(&format!("copy {number}")));
        let file = copy.join(name);
        let good = fs::read(&file).unwrap();
        let refusal = || {
            let error = VerifiedBackup::open(&copy).err().unwrap();
            assert!(error.is_of_the_backup(), "{error:?}");
            error
        };
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&file, bad).unwrap();
            let error = refusal();
            assert!(matches!(&error, RestoreError::Changed { path, .. } if *path == file), "{error:?}");
        }
        fs::write(&file, &good[1..]).unwrap();
        assert!(matches!(refusal(), RestoreError::Changed { what: "its length differs", .. }));
        fs::remove_file(&file).unwrap();
        assert!(matches!(refusal(), RestoreError::Missing(missing) if missing == *name));
        std::os::unix::fs::symlink(backup.join(name), &file).unwrap();
        assert!(matches!(refusal(), RestoreError::Changed { what: "it is no regular file", .. }));
    }
}

#[tokio::test]
async fn a_manifest_that_agrees_with_other_content_does_not_help() {
    let server = Server::start(Sealer::plain());
    server.issue(0..5).await;
    let backup = server.backup("backup").await;
    let mut copies = 0..;
    let mut copy = || copied(&backup, &server.path(&format!("copy {}", copies.next().unwrap())));
    let refusal = |copy: &Path| VerifiedBackup::open(copy).err().unwrap();

    let segment = "log/00000000000000000000.seg";
    let rewritten = copy();
    let mut bytes = fs::read(rewritten.join(segment)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    replace(&rewritten, segment, &bytes);
    assert!(matches!(refusal(&rewritten), RestoreError::Verify(_)));

    let other = Server::start(Sealer::plain());
    other.issue(0..5).await;
    let other = other.backup("backup").await;
    let swapped = copy();
    replace(&swapped, "log/checkpoint", &fs::read(other.join("log/checkpoint")).unwrap());
    assert!(matches!(refusal(&swapped), RestoreError::Verify(_)));
    // Another log's key is found when the restored log is opened, and nothing is left.
    let swapped = copy();
    replace(&swapped, "log-key.pem", &fs::read(other.join("log-key.pem")).unwrap());
    let data = server.path("data of a swapped key");
    let verified = VerifiedBackup::open(&swapped).unwrap();
    let error = verified.restore(&data, Sealer::plain(), from_unix(NOW)).await.unwrap_err();
    assert!(matches!(error, RestoreError::Log(_)), "{error:?}");
    assert!(!data.exists());

    for (field, value, what) in [
        ("origin", serde_json::json!("signet/0"), "its name"),
        ("records", serde_json::json!(4), "the number of records"),
        ("root", serde_json::json!("00"), "the root"),
    ] {
        let lying = copy();
        edit_manifest(&lying, |json| json["log"][field] = value);
        assert!(matches!(refusal(&lying), RestoreError::OtherLog(found) if found == what));
    }
    let climbing = copy();
    fs::write(server.path("outside"), "").unwrap();
    edit_manifest(&climbing, |json| {
        let entry = serde_json::json!({ "name": "../outside", "bytes": 0, "sha256": hex(&sha256(b"")) });
        json["files"].as_array_mut().unwrap().push(entry);
    });
    assert!(matches!(refusal(&climbing), RestoreError::Name(name) if name == "../outside"));
    let short = copy();
    edit_manifest(&short, |json| {
        json["files"].as_array_mut().unwrap().retain(|file| file["name"] != "log-key.pem");
    });
    assert!(matches!(refusal(&short), RestoreError::Missing(name) if name == "log-key.pem"));
}

#[tokio::test]
async fn what_is_unfinished_or_of_a_later_format_is_refused() {
    let server = Server::start(Sealer::plain());
    let backup = server.backup("backup").await;
    let refusal = |backup: &Path| VerifiedBackup::open(backup).err().unwrap();
    edit_manifest(&backup, |json| {
        json["format"] = 2.into();
        json["log"] = "something else".into();
    });
    let error = refusal(&backup);
    assert!(matches!(error, RestoreError::Format { found: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("format 2; this program knows 1"), "{error}");
    fs::write(backup.join(MANIFEST), "{").unwrap();
    assert!(matches!(refusal(&backup), RestoreError::Manifest { .. }));
    fs::remove_file(backup.join(MANIFEST)).unwrap();
    assert!(matches!(refusal(&backup), RestoreError::NotABackup { .. }));
    assert!(matches!(refusal(&server.path("nowhere")), RestoreError::NotABackup { .. }));

    let backup = server.backup("another").await;
    replace(&backup, "VERSION", b"2\n");
    assert!(matches!(refusal(&backup), RestoreError::Folder(DataFolderError::Version { .. })));
    for (content, what) in [
        (&b"{\"format\":2}\n"[..], "format 2"),
        (b"rows\n", "line 1"),
        (b"{\"format\":1}\n{\"table\":\"new\",\"key\":\"\",\"value\":\"\"}\n", "unknown table \"new\""),
        (b"{\"format\":1}\n{\"table\":\"meta\",\"key\":\"*\",\"value\":\"\"}\n", "line 2"),
    ] {
        replace(&backup, "VERSION", b"1\n");
        replace(&backup, "state.jsonl", content);
        let data = server.path("of a bad state");
        let backup = VerifiedBackup::open(&backup).unwrap();
        match backup.restore(&data, Sealer::plain(), from_unix(NOW)).await.unwrap_err() {
            RestoreError::State(error) => assert!(error.to_string().contains(what), "{error}"),
            other => panic!("{other:?}"),
        }
        assert!(!data.exists(), "nothing is left of a restore that failed");
    }
}

#[tokio::test]
async fn nothing_is_overwritten_on_either_way() {
    let server = Server::start(Sealer::plain());
    let backup = server.backup("backup").await;
    assert!(matches!(
        BackupFolder::create(&backup).err().unwrap(),
        BackupError::Folder(DataFolderError::NotEmpty { .. })
    ));
    // Not even root makes folders in /proc.
    let error = BackupFolder::create(Path::new("/proc/backup")).err().unwrap();
    assert_eq!(error.to_string(), "cannot make /proc/backup");
    let verified = VerifiedBackup::open(&backup).unwrap();
    let taken = server.path("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("mine"), "kept").unwrap();
    let error = verified.restore(&taken, Sealer::plain(), from_unix(NOW)).await.unwrap_err();
    assert!(matches!(error, RestoreError::Folder(DataFolderError::NotEmpty { .. })), "{error:?}");
    assert_eq!(files_in(&taken), BTreeSet::from(["mine".to_owned()]));
    let running = verified.restore(&server.path("data"), Sealer::plain(), from_unix(NOW)).await;
    assert!(matches!(running, Err(RestoreError::Folder(DataFolderError::NotEmpty { .. }))));

    // An empty folder, such as a new volume, is taken and stays.
    let volume = server.path("volume");
    fs::create_dir_all(volume.join("lost+found")).unwrap();
    restore(&backup, &volume).await;
    assert!(volume.join("lost+found").exists());
    let error = DataFolder::open(&backup).unwrap_err();
    assert!(matches!(error, DataFolderError::Backup { .. }), "a backup is not run on: {error:?}");
}

#[tokio::test]
async fn a_restore_that_was_cut_short_leaves_no_data_folder() {
    let server = Server::start(Sealer::plain());
    let path = server.path("begun");
    let folder = DataFolder::open_empty(&path).unwrap();
    assert!(matches!(DataFolder::open_empty(&path), Err(DataFolderError::NotEmpty { .. })));
    drop(folder);
    assert!(matches!(DataFolder::open(&path), Err(DataFolderError::NotADataFolder { .. })));
    // Two at once: the second finds the lock.
    let path = server.path("twice");
    fs::create_dir(&path).unwrap();
    let lock = OpenOptions::new().write(true).create_new(true).open(path.join("lock")).unwrap();
    lock.lock().unwrap();
    assert!(matches!(DataFolder::open_empty(&path), Err(DataFolderError::InUse { .. })));
}

#[tokio::test]
async fn a_full_disk_leaves_nothing_that_looks_like_a_backup_and_the_server_goes_on() {
    let server = Server::start(Sealer::plain());
    server.issue(0..5).await;
    // The kernel's own full disk.
    let full = |path: &Path| match path.file_name().unwrap().to_str().unwrap() {
        "hashes" => OpenOptions::new().write(true).open("/dev/full"),
        _ => OpenOptions::new().write(true).create_new(true).open(path),
    };
    for existed in [false, true] {
        let path = server.path(&format!("backup {existed}"));
        if existed {
            fs::create_dir(&path).unwrap();
        }
        let folder = BackupFolder::create(&path).unwrap().made_by(full);
        match server.try_backup(folder).await.unwrap_err() {
            BackupError::Io { attempted: "write", path: file, source } => {
                assert!(file.ends_with("log/hashes"), "{file:?}");
                assert_eq!(source.kind(), io::ErrorKind::StorageFull);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(path.exists(), existed);
        assert!(!existed || files_in(&path).is_empty());
    }
    server.issue(5..6).await;
    let path = server.backup("backup false").await;
    VerifiedBackup::open(&path).unwrap();
}

#[tokio::test]
async fn a_damaged_log_is_found_while_it_is_backed_up() {
    let server = Server::start(Sealer::plain());
    server.issue(0..6).await;
    let first = server.path("data/log/00000000000000000000.seg");
    let good = fs::read(&first).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&first, bad).unwrap();
    let path = server.path("backup");
    let error = server.try_backup(BackupFolder::create(&path).unwrap()).await.unwrap_err();
    assert!(matches!(error, BackupError::Verify(_)), "{error:?}");
    assert!(!path.exists());
    fs::remove_file(&first).unwrap();
    server.try_backup(BackupFolder::create(&path).unwrap()).await.unwrap_err();
    assert!(!path.exists());
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_not_written() {
    let server = Server::start(Sealer::plain());
    let mut folder = BackupFolder::create(&server.path("backup")).unwrap();
    for name in ["", "/etc/x", "../x", "log/../../x", "log//x", "a b", "./x", "log/", "x\0"] {
        assert!(matches!(folder.begin(name), Err(BackupError::Name(_))), "{name:?}");
    }
    assert!(folder.write(b"of no file").is_err());
    // A stream that ends with another number of records than were sent is not whole.
    let path = server.path("short");
    let mut folder = BackupFolder::create(&path).unwrap();
    server.issue(0..2).await;
    let (log, store, data) = (server.log().clone(), server.store.clone(), server.path("data"));
    let runtime = Handle::current();
    let short = tokio::task::spawn_blocking(move || {
        let records = send_running(&data, &log, store.as_ref(), &runtime, &mut folder).unwrap();
        folder.finish(records + 1, from_unix(NOW))
    });
    let error = short.await.unwrap().unwrap_err();
    assert!(matches!(error, BackupError::Records { expected: 3, found: 2 }), "{error:?}");
    assert!(!path.exists());
}
