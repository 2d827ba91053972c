//! A model of a file system: the contents of the page cache, the contents of the disk, and the
//! changes that may or may not have reached the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use coracle_integration::Random;

use crate::recording::{Change, Event, Position};

pub const PAGE_BYTES: usize = 4096;

/// The promises of a file system about changes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// POSIX and no more: each name, each size and each sector stands for itself, and a name is
    /// durable only when its directory was synced.
    Strict,
    /// As ext4 with ordered data and delayed allocation: names and sizes become durable in order,
    /// and all of them when a sync finds one of them in its file.
    Ext4,
}

/// The file or directory that a name refers to.
pub type Inode = usize;

/// A page at a moment after the last sync.
pub struct Version {
    pub at: Position,
    pub page: Box<[u8]>,
}

#[derive(Default)]
pub struct File {
    /// The contents that processes read, in whole pages.
    cache: Vec<u8>,
    size: u64,
    /// The contents that are on the disk for certain, in whole pages.
    pub disk: Vec<u8>,
    pub disk_size: u64,
    /// The pages that were changed since, each version of them.
    pub dirty: BTreeMap<usize, Vec<Version>>,
    /// The sizes since, and whether each was set (true) or came with a write.
    pub sizes: Vec<(Position, u64, bool)>,
    /// Pages that the file system lost track of: no later sync writes them.
    lost: BTreeSet<usize>,
    /// The pages that have a place on the disk.
    allocated: BTreeSet<usize>,
    /// The positions at which pages got their places, since the last commit of metadata.
    allocations: Vec<Position>,
}

pub type Names = BTreeMap<OsString, Inode>;

pub enum Node {
    File(File),
    Directory {
        /// The names that processes see.
        names: Names,
        /// The names that are on the disk for certain.
        disk: Names,
    },
}

/// A change of one name that may not be on the disk.
#[derive(Clone)]
pub struct NameChange {
    pub at: Position,
    pub directory: Inode,
    pub name: OsString,
    pub inode: Option<Inode>,
}

/// The file system while a recording is replayed.
pub struct Model {
    pub rules: Rules,
    pub nodes: Vec<Node>,
    /// The changes that are not on the disk for certain, in order.
    pub pending: Vec<NameChange>,
    root: PathBuf,
    seed: u64,
    /// The syncs that failed, described.
    pub failed_syncs: Vec<String>,
}

/// An odd number whose products are spread widely.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// The directory that holds the recorded one.
pub const ROOT: Inode = 0;

impl Model {
    /// An empty file system at `root`. The seed decides about the losses of failed syncs.
    pub fn new(rules: Rules, root: &Path, seed: u64) -> Self {
        Self {
            rules,
            nodes: vec![Node::Directory { names: Names::new(), disk: Names::new() }],
            pending: Vec::new(),
            root: root.to_owned(),
            seed,
            failed_syncs: Vec::new(),
        }
    }

    /// Takes the files of a real directory as durable ones.
    pub fn load(&mut self, directory: &Path) {
        let mut open = vec![(ROOT, directory.to_owned())];
        while let Some((parent, path)) = open.pop() {
            for entry in std::fs::read_dir(path).unwrap() {
                let entry = entry.unwrap();
                let inode = if entry.path().is_dir() {
                    let inode = self.add_directory();
                    open.push((inode, entry.path()));
                    inode
                } else {
                    self.add(Node::File(File::durable(std::fs::read(entry.path()).unwrap())))
                };
                if let Node::Directory { names, disk } = &mut self.nodes[parent] {
                    names.insert(entry.file_name(), inode);
                    disk.insert(entry.file_name(), inode);
                }
            }
        }
    }

    /// Performs the event that has this position.
    pub fn apply(&mut self, at: Position, event: &Event) {
        match event {
            Event::Create(path) => {
                let inode = self.add(Node::File(File::default()));
                self.rename(at, path, Some(inode));
            }
            Event::Write { path, offset, bytes } => {
                self.file(path, |f| f.write(at, *offset, bytes))
            }
            Event::Change(change) => self.change(at, change),
            Event::Sync { path, start } => {
                if let Some(inode) = self.find(path) {
                    self.sync(inode, *start);
                }
            }
            Event::FailedSync { path, start } => {
                if let Some(inode) = self.find(path) {
                    self.fail_sync(inode, *start, at, path);
                }
            }
            Event::SyncAll { start } => {
                (0..self.nodes.len()).for_each(|inode| self.sync(inode, *start));
            }
        }
    }

    fn change(&mut self, at: Position, change: &Change) {
        match change {
            Change::Mkdir(path) => {
                let inode = self.add_directory();
                self.rename(at, path, Some(inode));
            }
            Change::Truncate { path, size } => self.file(path, |f| f.resize(at, *size)),
            Change::Extend { path, size } => self.file(path, |f| f.resize(at, f.size.max(*size))),
            Change::Rename { from, to } => {
                let inode = self.find(from);
                self.rename(at, to, inode);
                self.rename(at, from, None);
            }
            Change::Link { from, to } => {
                let inode = self.find(from);
                self.rename(at, to, inode);
            }
            Change::Unlink(path) => self.rename(at, path, None),
            Change::DropCache(path) => self.file(path, File::drop_cache),
        }
    }

    fn add_directory(&mut self) -> Inode {
        self.add(Node::Directory { names: Names::new(), disk: Names::new() })
    }

    fn add(&mut self, node: Node) -> Inode {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Returns the file or directory that a path refers to.
    pub fn find(&self, path: &Path) -> Option<Inode> {
        let mut inode = ROOT;
        for name in path.strip_prefix(&self.root).ok()? {
            let Node::Directory { names, .. } = &self.nodes[inode] else { return None };
            inode = *names.get(name)?;
        }
        Some(inode)
    }

    /// Returns the contents that processes read in a file.
    pub fn cached(&self, path: &Path) -> Option<&[u8]> {
        match &self.nodes[self.find(path)?] {
            Node::File(file) => file.cache.get(..file.size as usize),
            Node::Directory { .. } => None,
        }
    }

    fn file(&mut self, path: &Path, change: impl FnOnce(&mut File)) {
        if let Some(inode) = self.find(path)
            && let Node::File(file) = &mut self.nodes[inode]
        {
            change(file);
        }
    }

    fn rename(&mut self, at: Position, path: &Path, inode: Option<Inode>) {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
        let Some(directory) = self.find(parent) else { return };
        let change = NameChange { at, directory, name: name.to_owned(), inode };
        if let Node::Directory { names, .. } = &mut self.nodes[directory] {
            set(names, &change);
        }
        self.pending.push(change);
    }

    /// Makes the changes before `start` of one file or directory durable.
    fn sync(&mut self, inode: Inode, start: Position) {
        let rules = self.rules;
        let in_names =
            |change: &NameChange| change.directory == inode || change.inode == Some(inode);
        let commits = self.pending.iter().any(|change| change.at < start && in_names(change))
            || matches!(&self.nodes[inode], Node::File(file) if file.has_metadata(start));
        if let Node::File(file) = &mut self.nodes[inode] {
            file.sync(start);
        }
        let covered = |change: &NameChange| {
            change.at < start
                && match rules {
                    Rules::Strict => change.directory == inode,
                    Rules::Ext4 => commits,
                }
        };
        let (durable, pending) = std::mem::take(&mut self.pending).into_iter().partition(covered);
        self.pending = pending;
        self.make_durable(durable);
        if rules == Rules::Ext4 && commits {
            for node in &mut self.nodes {
                if let Node::File(file) = node {
                    file.commit_metadata(start);
                }
            }
        }
    }

    fn make_durable(&mut self, changes: Vec<NameChange>) {
        for change in changes {
            if let Node::Directory { disk, .. } = &mut self.nodes[change.directory] {
                set(disk, &change);
            }
        }
    }

    /// Loses pages as Linux does after a failed write-back: the error is reported once, and the pages
    /// count as clean, whether or not they have reached the disk.
    fn fail_sync(&mut self, inode: Inode, start: Position, at: Position, path: &Path) {
        // Whatever the rules are, the same pages are lost.
        let mut random = Random::new(self.seed.wrapping_add(at as u64).wrapping_mul(MIX));
        let choice = random.below(4);
        let name = path.file_name().unwrap_or_default().display();
        let Node::File(file) = &mut self.nodes[inode] else {
            self.failed_syncs.push(format!("directory {name} at event {at}"));
            return;
        };
        let loss = match choice {
            0 => {
                file.drop_dirty(start);
                "all pages dropped"
            }
            1 => {
                file.write_back(start, |_| random.below(2) == 0);
                file.drop_dirty(start);
                "pages dropped at random"
            }
            2 => {
                file.lose_dirty(start);
                file.drop_dirty(start);
                "pages lost for good"
            }
            _ => "nothing dropped",
        };
        self.failed_syncs.push(format!("{name} at event {at}: {loss}"));
    }
}

/// Makes a change in a map of names.
pub fn set(names: &mut Names, change: &NameChange) {
    match change.inode {
        Some(inode) => drop(names.insert(change.name.clone(), inode)),
        None => drop(names.remove(&change.name)),
    }
}

impl File {
    /// A file whose contents are on the disk.
    fn durable(mut bytes: Vec<u8>) -> Self {
        let size = bytes.len() as u64;
        bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES), 0);
        let allocated = (0..bytes.len() / PAGE_BYTES).collect();
        let disk = bytes.clone();
        Self { cache: bytes, size, disk, disk_size: size, allocated, ..Self::default() }
    }

    fn write(&mut self, at: Position, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        self.grow(end);
        self.cache[start..end].copy_from_slice(bytes);
        self.changed(at, start / PAGE_BYTES..end.div_ceil(PAGE_BYTES));
        if end as u64 > self.size {
            self.size = end as u64;
            self.sizes.push((at, self.size, false));
        }
    }

    fn resize(&mut self, at: Position, size: u64) {
        let keep = size as usize;
        self.grow(keep);
        let used = self.cache.len();
        if size < self.size {
            self.cache[keep..].fill(0);
            self.changed(at, keep / PAGE_BYTES..used / PAGE_BYTES);
        }
        if size != self.size {
            self.size = size;
            self.sizes.push((at, size, true));
        }
    }

    fn grow(&mut self, end: usize) {
        if self.cache.len() < end {
            self.cache.resize(end.next_multiple_of(PAGE_BYTES), 0);
        }
    }

    fn changed(&mut self, at: Position, pages: std::ops::Range<usize>) {
        for page in pages {
            let bytes = &self.cache[page * PAGE_BYTES..(page + 1) * PAGE_BYTES];
            if self.allocated.insert(page) {
                self.allocations.push(at);
            }
            if self.lost.contains(&page) {
                continue;
            }
            self.dirty.entry(page).or_default().push(Version { at, page: bytes.into() });
        }
    }

    /// Returns whether a sync that began at `start` has to commit metadata, too.
    fn has_metadata(&self, start: Position) -> bool {
        self.sizes.iter().any(|(at, ..)| *at < start)
            || self.allocations.iter().any(|at| *at < start)
    }

    /// Makes the changes before `start` durable.
    fn sync(&mut self, start: Position) {
        self.write_back(start, |_| true);
        self.allocations.retain(|at| *at >= start);
        let covered = self.sizes.iter().take_while(|(at, ..)| *at < start).count();
        if let Some((_, size, _)) = self.sizes.drain(..covered).next_back() {
            self.disk_size = size;
        }
    }

    /// Writes the pages that `choose` picks as they were before `start`.
    fn write_back(&mut self, start: Position, mut choose: impl FnMut(usize) -> bool) {
        self.disk.resize(self.disk.len().max(self.cache.len()), 0);
        for (page, versions) in &mut self.dirty {
            let covered = versions.iter().take_while(|version| version.at < start).count();
            if covered > 0
                && choose(*page)
                && let Some(version) = versions.drain(..covered).next_back()
            {
                let place = page * PAGE_BYTES;
                self.disk[place..place + PAGE_BYTES].copy_from_slice(&version.page);
            }
        }
        self.dirty.retain(|_, versions| !versions.is_empty());
    }

    /// From now on no sync writes the pages that were changed before `start`.
    fn lose_dirty(&mut self, start: Position) {
        let dirty = self.dirty.iter().filter(|(_, versions)| versions[0].at < start);
        let pages: Vec<usize> = dirty.map(|(page, _)| *page).collect();
        self.lost.extend(pages);
    }

    /// Reads clean pages from the disk again.
    fn drop_cache(&mut self) {
        for page in 0..self.cache.len() / PAGE_BYTES {
            if self.dirty.contains_key(&page) {
                continue;
            }
            let place = page * PAGE_BYTES..(page + 1) * PAGE_BYTES;
            match self.disk.get(place.clone()) {
                Some(bytes) => self.cache[place].copy_from_slice(bytes),
                None => self.cache[place].fill(0),
            }
        }
    }

    /// Makes durable the sizes that were set before `start`; those that writes made come with
    /// their pages.
    fn commit_metadata(&mut self, start: Position) {
        let set = self.sizes.iter().rposition(|(at, _, set)| *at < start && *set);
        if let Some(last) = set {
            self.disk_size = self.sizes[last].1;
            self.sizes.drain(..=last);
        }
    }

    fn drop_dirty(&mut self, start: Position) {
        for versions in self.dirty.values_mut() {
            versions.retain(|version| version.at >= start);
        }
        self.dirty.retain(|_, versions| !versions.is_empty());
    }
}
