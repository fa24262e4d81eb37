//! A disk that forgets.
//!
//! What is written shows at once in real files, where the log's readers look for it, as the page cache of a
//! system would show it. What a power cut would leave is kept beside: the bytes that were synced and the names
//! whose folder was synced for certain, all else only as chance has it. Each step that is asked of the disk
//! has a number, so that each can be the one that fails, or in which the program is killed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::issuance_log::files::{Content, Disk, DiskFile};

/// What a disk writes at once. Parts of a write that lie in different pages reach it in any order.
const PAGE: u64 = 4096;

/// Numbers that look like chance and come again with their seed (splitmix64).
#[derive(Debug, Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of 0 to `end`, which is not among them.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn chance(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// How much of a step is done that does not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Nothing,
    Part,
    All,
}

/// What happens to the steps of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    Works,
    /// This step fails.
    Fails(u64, Done),
    /// This one and all after it.
    FailsFrom(u64, Done),
    /// In this one the program is killed; it notices by everything failing from here on.
    Kills(u64, Done),
}

/// What a power cut leaves of that which was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    Everything,
    /// The first steps of each file, the last of them in part.
    Begin,
    /// Any of the pages.
    Pages,
}

/// See the module's text. It has one folder.
pub(super) struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    random: Random,
    plan: Plan,
    steps: u64,
    /// The program was killed and not started again.
    dead: bool,
    /// How often it was started; files that were opened in an earlier life do nothing.
    life: u64,
    /// Bytes that all files together may have.
    capacity: u64,
    files: Vec<Inode>,
    /// As the running system shows them; numbers of files.
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// What each name has meant since its folder was synced.
    unsynced_names: BTreeMap<PathBuf, Vec<Option<usize>>>,
}

/// A file whatever its name.
#[derive(Default)]
struct Inode {
    length: u64,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Length(length) => content.resize(at(*length), 0),
            Change::Write(offset, bytes) => {
                let end = at(*offset) + bytes.len();
                content.resize(content.len().max(end), 0);
                content[at(*offset)..end].copy_from_slice(bytes);
            }
        }
    }

    /// The parts that a disk writes each by itself.
    fn pages(&self) -> Vec<Change> {
        let Change::Write(offset, bytes) = self else { return vec![self.clone()] };
        let (mut pages, mut from, mut rest) = (Vec::new(), *offset, &bytes[..]);
        while !rest.is_empty() {
            let (page, more) = rest.split_at(rest.len().min(at(PAGE - from % PAGE)));
            pages.push(Change::Write(from, page.to_vec()));
            (from, rest) = (from + page.len() as u64, more);
        }
        pages
    }
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl SimulatedDisk {
    pub(super) fn new(seed: u64) -> SimulatedDisk {
        let state = State {
            random: Random(seed),
            plan: Plan::Works,
            steps: 0,
            dead: false,
            life: 0,
            capacity: u64::MAX,
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: BTreeMap::new(),
        };
        SimulatedDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Starts a new life: the steps are counted from 0 and go as planned.
    pub(super) fn start(&self, plan: Plan) {
        let mut state = self.state();
        state.dead = false;
        state.life += 1;
        state.steps = 0;
        state.plan = plan;
    }

    /// Changes the plan for what is left of this life.
    pub(super) fn plan(&self, plan: Plan) {
        self.state().plan = plan;
    }

    /// Kills the program between two steps, if it is not dead already.
    pub(super) fn kill(&self) {
        self.state().dead = true;
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Steps of this life so far.
    pub(super) fn steps(&self) -> u64 {
        self.state().steps
    }

    /// All files together get no longer than so many bytes beyond what they have now.
    pub(super) fn limit(&self, more: u64) {
        let mut state = self.state();
        state.capacity = state.used().saturating_add(more);
    }

    /// Cuts the power of a killed program: the files are then what the disk has of them.
    pub(super) fn cut_power(&self, left: Left) {
        let mut state = self.state();
        assert!(state.dead, "a program runs on power");
        let mut files = Vec::new();
        for number in 0..state.files.len() {
            let unsynced = std::mem::take(&mut state.files[number].unsynced);
            let mut content = std::mem::take(&mut state.files[number].durable);
            for change in state.random.survivors(unsynced, left) {
                change.apply(&mut content);
            }
            files.push(Inode { length: content.len() as u64, durable: content, unsynced: Vec::new() });
        }
        state.files = files;
        let mut names = std::mem::take(&mut state.durable_names);
        for (path, meanings) in std::mem::take(&mut state.unsynced_names) {
            let kept = match left {
                Left::Nothing => 0,
                Left::Everything => meanings.len(),
                Left::Begin | Left::Pages => at(state.random.below(meanings.len() as u64 + 1)),
            };
            match kept.checked_sub(1).map(|last| meanings[last]) {
                None => {}
                Some(Some(file)) => drop(names.insert(path, file)),
                Some(None) => drop(names.remove(&path)),
            }
        }
        for path in state.names.keys() {
            fs::remove_file(path).unwrap();
        }
        for (path, file) in &names {
            fs::write(path, &state.files[*file].durable).unwrap();
        }
        state.durable_names.clone_from(&names);
        state.names = names;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Random {
    fn survivors(&mut self, changes: Vec<Change>, left: Left) -> Vec<Change> {
        match left {
            Left::Nothing => Vec::new(),
            Left::Everything => changes,
            Left::Begin => {
                let mut kept: Vec<_> =
                    changes.iter().take(at(self.below(changes.len() as u64 + 1))).cloned().collect();
                if let Some(Change::Write(_, bytes)) = kept.last_mut() {
                    bytes.truncate(at(self.below(bytes.len() as u64 + 1)));
                }
                kept
            }
            Left::Pages => {
                let pages: Vec<_> = changes.iter().flat_map(Change::pages).collect();
                pages.into_iter().filter(|_| self.chance()).collect()
            }
        }
    }
}

impl State {
    /// Begins a step: whether it comes to its end, and if not how much of it is done before it fails.
    fn step(&mut self, life: u64) -> io::Result<Option<Done>> {
        if self.dead || life != self.life {
            return Err(io::Error::other("the program was killed"));
        }
        let number = self.steps;
        self.steps += 1;
        Ok(match self.plan {
            Plan::Fails(step, done) if step == number => Some(done),
            Plan::FailsFrom(step, done) if step <= number => Some(done),
            Plan::Kills(step, done) if step == number => {
                self.dead = true;
                Some(done)
            }
            _ => None,
        })
    }

    fn used(&self) -> u64 {
        self.files.iter().map(|file| file.length).sum()
    }

    fn change(&mut self, file: usize, change: Change) {
        let inode = &mut self.files[file];
        inode.length = match &change {
            Change::Length(length) => *length,
            Change::Write(offset, bytes) => inode.length.max(offset + bytes.len() as u64),
        };
        inode.unsynced.push(change);
    }

    fn name(&mut self, path: &Path, file: Option<usize>) {
        match file {
            Some(file) => drop(self.names.insert(path.to_owned(), file)),
            None => drop(self.names.remove(path)),
        }
        self.unsynced_names.entry(path.to_owned()).or_default().push(file);
    }

    /// What a step that is a single one for the system, such as a rename, answers, and whether it is done.
    fn whole(&mut self, life: u64) -> io::Result<(bool, io::Result<()>)> {
        Ok(match self.step(life)? {
            None => (true, Ok(())),
            Some(Done::Nothing) => (false, Err(refused())),
            Some(Done::Part | Done::All) => (true, Err(refused())),
        })
    }
}

fn refused() -> io::Error {
    io::Error::other("the disk refused")
}

struct SimulatedFile {
    state: Arc<Mutex<State>>,
    life: u64,
    number: usize,
    file: File,
}

impl Disk for SimulatedDisk {
    fn open_file(&self, path: &Path, content: Content, _mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        let life = state.life;
        let (done, answer) = state.whole(life)?;
        if !done {
            return Err(refused());
        }
        let file =
            OpenOptions::new().write(true).create(true).truncate(content == Content::Removed).open(path)?;
        let number = match state.names.get(path) {
            Some(number) => *number,
            None => {
                let number = state.files.len();
                state.files.push(Inode::default());
                state.name(path, Some(number));
                number
            }
        };
        if content == Content::Removed {
            state.change(number, Change::Length(0));
        }
        answer?;
        Ok(Box::new(SimulatedFile { state: self.state.clone(), life, number, file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let life = state.life;
        let (done, answer) = state.whole(life)?;
        if done {
            fs::rename(from, to)?;
            let number = state.names[from];
            state.name(from, None);
            state.name(to, Some(number));
        }
        answer
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let life = state.life;
        let (done, answer) = state.whole(life)?;
        if done {
            fs::remove_file(path)?;
            state.name(path, None);
        }
        answer
    }

    fn sync_folder_of(&self, _path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let life = state.life;
        let (done, answer) = state.whole(life)?;
        if done {
            state.unsynced_names.clear();
            state.durable_names = state.names.clone();
        }
        answer
    }
}

impl DiskFile for SimulatedFile {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let planned = state.step(self.life)?;
        let mut length = match planned {
            None | Some(Done::All) => bytes.len() as u64,
            Some(Done::Nothing) => 0,
            Some(Done::Part) => state.random.below(bytes.len() as u64 + 1),
        };
        let room = state.files[self.number].length + state.capacity.saturating_sub(state.used());
        let fits = room.saturating_sub(offset).min(length);
        let full = fits < length;
        length = fits;
        if length > 0 {
            let bytes = &bytes[..at(length)];
            FileExt::write_all_at(&self.file, bytes, offset)?;
            state.change(self.number, Change::Write(offset, bytes.to_vec()));
        }
        match planned {
            _ if full => Err(io::ErrorKind::StorageFull.into()),
            Some(_) => Err(refused()),
            None => Ok(()),
        }
    }

    /// After a sync that fails nothing that it should have written is tried again: what it did not write stays
    /// to be seen until the power goes, and later syncs succeed without it. So do real systems.
    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let planned = state.step(self.life)?;
        if planned.is_some() && state.dead {
            return Err(refused());
        }
        let changes = std::mem::take(&mut state.files[self.number].unsynced);
        let left = match planned {
            None | Some(Done::All) => Left::Everything,
            Some(Done::Part) => Left::Pages,
            Some(Done::Nothing) => Left::Nothing,
        };
        let survivors = state.random.survivors(changes, left);
        for change in survivors {
            change.apply(&mut state.files[self.number].durable);
        }
        planned.map_or(Ok(()), |_| Err(refused()))
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let (done, answer) = state.whole(self.life)?;
        if done {
            self.file.set_len(length)?;
            state.change(self.number, Change::Length(length));
        }
        answer
    }
}
