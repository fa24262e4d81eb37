//! Following the plugged-in folder: whenever what it holds is other than before, and has been calm for a
//! moment, its content goes to the one who decides.
//!
//! The kernel tells of changes in the folder, in the folders that its files really stand in (Kubernetes swaps
//! a link), and of the folder's own name in the one above. That only wakes: what counts is the content, which
//! is read and compared every second as well, for folders that are mounted anew, on file systems that tell
//! nothing, or that were missing.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use signet_certs::cacerts::{Folder, NAMES};
use tokio::sync::mpsc;

use super::loader;

/// Without news for this long, a change is taken to be whole.
const CALM: Duration = Duration::from_millis(30);
/// A folder that is never calm is looked at all the same.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks without news.
const POLL: Duration = Duration::from_secs(1);

/// Starts a thread that follows the folder at `path`, last seen with this digest. It ends with the receiver.
pub fn follow(path: PathBuf, seen: [u8; 32]) -> std::io::Result<mpsc::Receiver<Folder>> {
    // The folder above a relative path could not be watched.
    let path = std::path::absolute(path)?;
    // One may wait while one is decided upon; a third look waits for room.
    let (folders, decides) = mpsc::channel(1);
    thread::Builder::new()
        .name("cacerts".to_owned())
        .spawn(move || Follower::new(path, seen).run(&folders))?;
    Ok(decides)
}

struct Follower {
    path: PathBuf,
    seen: [u8; 32],
    news: Receiver<()>,
    watcher: Option<RecommendedWatcher>,
    /// Each with what stood there when it was watched: a link may lead elsewhere since.
    watched: BTreeMap<PathBuf, (u64, u64)>,
}

impl Follower {
    fn new(path: PathBuf, seen: [u8; 32]) -> Self {
        // More than one piece of news says nothing more.
        let (wake, news) = sync_channel(1);
        let watcher = match notify::recommended_watcher(told(path.clone(), wake)) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, "the kernel does not tell of changes; the CA files are read every second");
                None
            }
        };
        Self { path, seen, news, watcher, watched: BTreeMap::new() }
    }

    fn run(mut self, folders: &mpsc::Sender<Folder>) {
        while !folders.is_closed() {
            self.watch();
            let folder = loader::read(&self.path);
            let digest = folder.digest();
            if digest != self.seen {
                self.seen = digest;
                if folders.blocking_send(folder).is_err() {
                    return;
                }
            }
            self.wait();
        }
    }

    /// Until there was news and then calm, or it is time to look anyway.
    fn wait(&self) {
        if self.news.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
            return;
        }
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until && self.news.recv_timeout(CALM).is_ok() {}
    }

    /// Has the kernel tell of the folders that matter now.
    fn watch(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeMap<_, _> = places(&self.path).into_iter().filter_map(identified).collect();
        for (gone, _) in self.watched.iter().filter(|(place, inode)| wanted.get(*place) != Some(*inode)) {
            // The kernel has forgotten it if it is gone altogether.
            let _ = watcher.unwatch(gone);
        }
        // What cannot be watched is tried again, and read every second all the same.
        let watched = std::mem::take(&mut self.watched);
        self.watched = wanted
            .into_iter()
            .filter(|(place, inode)| {
                watched.get(place) == Some(inode) || watcher.watch(place, RecursiveMode::NonRecursive).is_ok()
            })
            .collect();
    }
}

/// What the watcher calls: wakes the thread for what concerns the folder. Reading is no news, above all our own.
fn told(path: PathBuf, wake: SyncSender<()>) -> impl FnMut(notify::Result<Event>) + Send + 'static {
    move |event| {
        let concerns = match event {
            Ok(event) if matches!(event.kind, EventKind::Access(_)) => false,
            // The folder above may be a busy one.
            Ok(event) => event.paths.iter().any(|changed| {
                Some(changed.as_path()) != path.parent()
                    && (changed.parent() != path.parent() || *changed == path)
            }),
            Err(_) => true,
        };
        if concerns {
            let _ = wake.try_send(());
        }
    }
}

fn identified(place: PathBuf) -> Option<(PathBuf, (u64, u64))> {
    let found = place.metadata().ok()?;
    Some((place, (found.dev(), found.ino())))
}

/// Where a link leads, link by link: each of them may be swapped.
fn hops(path: &Path) -> Vec<PathBuf> {
    let mut hops = vec![path.to_owned()];
    // A loop of links leads nowhere.
    while hops.len() < 16
        && let Some(Ok(target)) = hops.last().map(std::fs::read_link)
    {
        let from = hops.last().and_then(|hop| hop.parent()).unwrap_or(Path::new("/"));
        hops.push(from.join(target));
    }
    hops
}

/// The folder, the ones above it and above what its links lead to, and those in which its files really stand.
fn places(path: &Path) -> BTreeSet<PathBuf> {
    let files = NAMES.iter().filter_map(|name| path.join(name).canonicalize().ok());
    let mut places: BTreeSet<PathBuf> = files.filter_map(|file| file.parent().map(Path::to_owned)).collect();
    places.extend(hops(path).iter().filter_map(|hop| hop.parent().map(Path::to_owned)));
    places.insert(path.to_owned());
    places.extend(path.canonicalize());
    places.extend(path.parent().map(Path::to_owned));
    places
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const CA_CERT: &str = "ca-cert.pem";

    fn followed(path: &Path) -> mpsc::Receiver<Folder> {
        follow(path.to_owned(), loader::read(path).digest()).unwrap()
    }

    async fn next(folders: &mut mpsc::Receiver<Folder>) -> String {
        let folder = tokio::time::timeout(Duration::from_secs(10), folders.recv()).await.unwrap().unwrap();
        match folder.get(CA_CERT) {
            Some(Ok(content)) => String::from_utf8(content.to_vec()).unwrap(),
            Some(Err(why)) => why.clone(),
            None => "absent".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_file_that_is_written_replaced_removed_and_made_again_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cacerts");
        let mut folders = followed(&path);
        fs::create_dir(&path).unwrap();
        fs::write(path.join(CA_CERT), "1").unwrap();
        assert_eq!(next(&mut folders).await, "1");
        fs::write(path.join("other"), "2").unwrap();
        fs::write(folder.path().join("other"), "2").unwrap();
        fs::rename(folder.path().join("other"), path.join(CA_CERT)).unwrap();
        assert_eq!(next(&mut folders).await, "2");
        fs::remove_dir_all(&path).unwrap();
        assert_eq!(next(&mut folders).await, "absent");
        fs::create_dir(&path).unwrap();
        fs::write(path.join(CA_CERT), "3").unwrap();
        assert_eq!(next(&mut folders).await, "3");
    }

    #[tokio::test]
    async fn a_swapped_link_is_seen_whether_of_the_folder_or_within_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["v1", "v2"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join(CA_CERT), name).unwrap();
        }
        let swap = |to: &str, link: PathBuf| {
            symlink(at(to), at("new")).unwrap();
            fs::rename(at("new"), link).unwrap();
        };
        // Through another link, which stands in a folder of its own.
        fs::create_dir(at("current")).unwrap();
        swap("v1", at("current/it"));
        symlink("current/it", at("linked")).unwrap();
        let mut linked = followed(&at("linked"));
        // As Kubernetes does it: the files are links through one link, and that is swapped.
        fs::create_dir(at("secret")).unwrap();
        swap("v1", at("secret/..data"));
        symlink("..data/ca-cert.pem", at("secret").join(CA_CERT)).unwrap();
        let mut secret = followed(&at("secret"));
        swap("v2", at("current/it"));
        swap("v2", at("secret/..data"));
        assert_eq!((next(&mut linked).await, next(&mut secret).await), ("v2".into(), "v2".into()));
        fs::write(at("v2").join(CA_CERT), "in place").unwrap();
        assert_eq!(
            (next(&mut linked).await, next(&mut secret).await),
            ("in place".into(), "in place".into())
        );
    }

    #[tokio::test]
    async fn many_writes_are_looked_at_once_calm_and_a_folder_without_calm_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let mut folders = followed(&path);
        let end = Instant::now() + PATIENCE * 2;
        let writes = thread::spawn(move || {
            let mut count = 0_u64;
            while Instant::now() < end {
                count += 1;
                fs::write(path.join(CA_CERT), count.to_string()).unwrap();
            }
            count.to_string()
        });
        assert_ne!(next(&mut folders).await, "absent");
        let last = writes.join().unwrap();
        // However many looks there were, the last one has the last content.
        while next(&mut folders).await != last {}
    }
}
