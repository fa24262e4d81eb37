//! Every fuzz target over its corpus: what fuzzing found once is never found again.
#![allow(clippy::unwrap_used)]

#[path = "fuzzing/seeds.rs"]
mod seeds;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use signet_tests::fuzzing::TARGETS;

fn corpus() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus"))
}

fn replay(corpora: &Path, target: &str) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let mut files: Vec<_> =
        fs::read_dir(corpora.join(target)).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus of {target} is empty");
    let fail = |file: &&PathBuf| {
        let data = fs::read(file).unwrap();
        catch_unwind(|| run(&data)).is_err()
    };
    let failed: Vec<_> = files.iter().filter(fail).collect();
    assert!(failed.is_empty(), "{target}: {failed:?}");
}

macro_rules! replayed {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            replay(&corpus(), stringify!($target));
        })*

        #[test]
        fn no_target_is_left_out() {
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($target)),*]);
            let mut folders: Vec<_> = fs::read_dir(corpus()).unwrap().map(|folder| folder.unwrap().file_name()).collect();
            folders.sort();
            assert_eq!(folders, TARGETS.map(|(name, _)| name), "a corpus without a target, or the other way round");
        }
    };
}

replayed!(answer cacerts configuration csr files jwks names requests sds segments token);
