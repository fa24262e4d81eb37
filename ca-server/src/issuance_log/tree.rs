//! The Merkle tree over the records: RFC 6962 hashes, in the order in which a C2SP tlog stores them.
//!
//! The file `log/hashes` holds 32 bytes for each complete subtree, at the position that
//! [`tlog_tiles::stored_hash_index`] gives. It can always be made again from the records; a signed
//! checkpoint says whether it is right. The writer keeps the right edge of the tree in memory
//! ([`Frontier`]), so that appending reads nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tlog_tiles::{
    HASH_SIZE, Hash, HashReader, record_hash, split_stored_hash_index, stored_hash_count,
    stored_hashes_for_record_hash, tree_hash,
};

use super::files::DiskFile;

/// Where the hashes are.
pub(super) fn hashes_path(dir: &Path) -> PathBuf {
    dir.join("hashes")
}

/// How many records a hash file of this length covers; what is torn at its end counts for nothing.
pub(super) fn records_covered(file_length: u64) -> u64 {
    let hashes = file_length / HASH_SIZE as u64;
    // A tree of n records stores at least n hashes and fewer than 2n, ever more with each record.
    let (mut low, mut high) = (hashes / 2, hashes);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if stored_hash_count(middle) <= hashes { low = middle } else { high = middle - 1 }
    }
    low
}

/// Bytes of the hash file of a tree with `size` records.
pub(super) fn hashes_length(size: u64) -> u64 {
    stored_hash_count(size) * HASH_SIZE as u64
}

/// The size and root of a tree: what a checkpoint signs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TreeHead {
    pub(super) size: u64,
    pub(super) root: Hash,
}

/// The complete subtrees at the right edge of a tree, one for each bit that is set in its size. They are all
/// that the next hashes and the root are made of.
#[derive(Clone)]
pub(super) struct Frontier {
    size: u64,
    /// By level; those whose bit is not set in `size` are stale.
    subtrees: [Hash; 64],
}

impl Frontier {
    /// Of the empty tree.
    pub(super) fn empty() -> Frontier {
        Frontier { size: 0, subtrees: [Hash::default(); 64] }
    }

    /// Of the tree with `size` records whose hashes `hashes` holds.
    ///
    /// # Errors
    /// The hashes cannot be read.
    pub(super) fn read(size: u64, hashes: &StoredHashes) -> io::Result<Frontier> {
        let mut frontier = Frontier { size, subtrees: [Hash::default(); 64] };
        for index in tlog_tiles::sub_tree_index(0, size, Vec::new()) {
            let (level, _) = split_stored_hash_index(index);
            frontier.subtrees[usize::from(level)] = hashes.read_one(index)?;
        }
        Ok(frontier)
    }

    /// How many records the tree has.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Adds a record; the hashes to be stored for it, in the order of the file.
    pub(super) fn push(&mut self, body: &[u8]) -> Vec<Hash> {
        let hashes = stored_hashes_for_record_hash(self.size, record_hash(body), self)
            .expect("the frontier holds every hash that is asked for");
        if let Some(last) = hashes.last() {
            self.subtrees[hashes.len() - 1] = *last;
        }
        self.size += 1;
        hashes
    }

    /// The tree's size and root.
    pub(super) fn head(&self) -> TreeHead {
        let root = tree_hash(self.size, self).expect("the frontier holds every hash that is asked for");
        TreeHead { size: self.size, root }
    }
}

/// Only the right edge is asked for, so the level tells which hash is meant.
impl HashReader for Frontier {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, tlog_tiles::Error> {
        let level = |index: &u64| usize::from(split_stored_hash_index(*index).0);
        Ok(indexes.iter().map(|index| self.subtrees[level(index)]).collect())
    }
}

/// The hash file, for reading.
pub(super) struct StoredHashes {
    file: File,
}

impl StoredHashes {
    /// Opens a hash file.
    ///
    /// # Errors
    /// It is not there or cannot be read.
    pub(super) fn open(path: &Path) -> io::Result<StoredHashes> {
        Ok(StoredHashes { file: File::open(path)? })
    }

    fn read_one(&self, index: u64) -> io::Result<Hash> {
        let mut hash = Hash::default();
        self.file.read_exact_at(&mut hash.0, index * HASH_SIZE as u64)?;
        Ok(hash)
    }
}

impl HashReader for StoredHashes {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, tlog_tiles::Error> {
        indexes
            .iter()
            .map(|index| self.read_one(*index).map_err(|_| tlog_tiles::Error::IndexesNotInTree))
            .collect()
    }
}

/// The tree as the writer grows it: the frontier, and the file behind it.
pub(super) struct Tree {
    frontier: Frontier,
    file: Box<dyn DiskFile>,
    /// Bytes that the file has.
    written: u64,
    /// Hashes that the file does not have yet. They only stay here while the disk refuses them.
    unwritten: Vec<u8>,
}

impl Tree {
    /// A tree whose file holds exactly the hashes of `frontier`'s records.
    pub(super) fn new(frontier: Frontier, file: Box<dyn DiskFile>) -> Tree {
        let written = hashes_length(frontier.size());
        Tree { frontier, file, written, unwritten: Vec::new() }
    }

    /// Adds records.
    pub(super) fn extend<'a>(&mut self, bodies: impl Iterator<Item = &'a [u8]>) {
        for body in bodies {
            for hash in self.frontier.push(body) {
                self.unwritten.extend_from_slice(&hash.0);
            }
        }
    }

    /// Writes what the file does not have yet.
    ///
    /// # Errors
    /// The disk refused. The hashes are kept for the next call: the records are durable without them.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if !self.unwritten.is_empty() {
            self.file.write_at(&self.unwritten, self.written)?;
            self.written += self.unwritten.len() as u64;
            self.unwritten.clear();
        }
        Ok(())
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// The disk refused.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }

    /// How many records the tree has.
    pub(super) fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The tree's size and root.
    pub(super) fn head(&self) -> TreeHead {
        self.frontier.head()
    }

    /// The same, if the file has all of the tree's hashes.
    pub(super) fn written_head(&self) -> Option<TreeHead> {
        self.unwritten.is_empty().then(|| self.head())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tlog_tiles::{node_hash, prove_record};

    /// The definition in RFC 6962, section 2.1, word for word.
    fn definition(bodies: &[Vec<u8>]) -> Hash {
        match bodies {
            [] => tlog_tiles::EMPTY_HASH,
            [one] => record_hash(one),
            _ => {
                let k = bodies.len().next_power_of_two() / 2;
                node_hash(definition(&bodies[..k]), definition(&bodies[k..]))
            }
        }
    }

    #[test]
    fn the_frontier_gives_the_root_of_rfc_6962_at_each_size() {
        let bodies: Vec<Vec<u8>> = (0_u8..70).map(|n| vec![n; usize::from(n)]).collect();
        let mut frontier = Frontier::empty();
        for (size, body) in bodies.iter().enumerate() {
            assert!(frontier.head() == TreeHead { size: size as u64, root: definition(&bodies[..size]) });
            frontier.push(body);
        }
    }

    #[test]
    fn a_tree_goes_on_from_its_file_and_proves_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let bodies: Vec<Vec<u8>> = (0_u8..21).map(|n| vec![n]).collect();
        let file = || -> Box<dyn DiskFile> {
            Box::new(
                File::options()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(hashes_path(folder.path()))
                    .unwrap(),
            )
        };
        for cut in 0..bodies.len() {
            let mut tree = Tree::new(Frontier::empty(), file());
            tree.extend(bodies[..cut].iter().map(Vec::as_slice));
            tree.write().unwrap();
            let frontier =
                Frontier::read(cut as u64, &StoredHashes::open(&hashes_path(folder.path())).unwrap())
                    .unwrap();
            let mut tree = Tree::new(frontier, file());
            tree.extend(bodies[cut..].iter().map(Vec::as_slice));
            assert!(tree.written_head().is_none(), "nothing is signed before its hashes are in the file");
            tree.write().unwrap();
            assert!(tree.written_head().unwrap().root == definition(&bodies), "cut at {cut}");
        }
        let hashes = StoredHashes::open(&hashes_path(folder.path())).unwrap();
        let size = bodies.len() as u64;
        assert_eq!(std::fs::metadata(hashes_path(folder.path())).unwrap().len(), hashes_length(size));
        for index in 0..size {
            let proof = prove_record(size, index, &hashes).unwrap();
            let leaf = record_hash(&bodies[index as usize]);
            tlog_tiles::check_record(&proof, size, definition(&bodies), index, leaf).unwrap();
        }
    }

    #[test]
    fn a_hash_file_covers_the_records_whose_hashes_are_all_there() {
        let covered: Vec<u64> = (0..12).map(|hashes| records_covered(hashes * 32)).collect();
        // Records complete 1, 2, 1, 3, 1, 2, 1 subtrees.
        assert_eq!(covered, [0, 1, 1, 2, 3, 3, 3, 4, 5, 5, 6, 7]);
        assert_eq!(records_covered(31), 0);
        assert_eq!(records_covered(3 * 32 + 31), 2);
        for size in 0..200 {
            assert_eq!(records_covered(hashes_length(size)), size);
        }
    }
}
