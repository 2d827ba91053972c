//! A file system in memory that fails on demand and knows the contents of its disk.
//!
//! A failed sync drops the written pages, as Linux does: reads return them until the file is opened
//! again, but they are not on the disk, and later writes to the same place never get there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rand::Rng;
use rand::rngs::StdRng;

use crate::files::{FileHandle, Files};

/// A disk writes this many bytes whole or not at all.
const SECTOR_BYTES: usize = 512;
const BLOCK_BYTES: u64 = 4096;

/// The fault of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The operation fails with EIO; a sync drops what it should have written.
    Io,
    /// The operation fails with ENOSPC; a sync drops what it should have written.
    NoSpace,
    /// Half of a write is done, then it fails; other operations fail with EIO.
    Short,
    /// The operation panics, and only that.
    Panic,
}

/// From which operation on, and up to which.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) fault: Fault,
}

#[derive(Clone, Debug)]
pub(super) struct Simulated(Arc<Mutex<World>>);

#[derive(Clone, Debug, Default)]
struct World {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    unsynced_names: Vec<NameChange>,
    operations: u64,
    /// The operations so far, for messages.
    log: Vec<String>,
    plan: Option<Plan>,
    /// Files do not grow and are not created.
    full: bool,
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, usize),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    cache: Vec<u8>,
    disk: Vec<u8>,
    unsynced: Vec<Change>,
    /// Blocks whose write-back has failed once.
    lost: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
enum Change {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

impl Inode {
    fn apply(to: &mut Vec<u8>, change: &Change, lost: &BTreeSet<u64>) {
        match change {
            Change::Length(length) => to.resize(*length as usize, 0),
            Change::Bytes(offset, bytes) => {
                let offset = *offset as usize;
                if to.len() < offset + bytes.len() {
                    to.resize(offset + bytes.len(), 0);
                }
                if lost.is_empty() {
                    to[offset..offset + bytes.len()].copy_from_slice(bytes);
                    return;
                }
                for (at, byte) in bytes.iter().enumerate() {
                    if !lost.contains(&((offset + at) as u64 / BLOCK_BYTES)) {
                        to[offset + at] = *byte;
                    }
                }
            }
        }
    }

    fn write_back(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            Self::apply(&mut self.disk, &change, &self.lost);
        }
    }

    fn lose(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            if let Change::Bytes(offset, bytes) = &change {
                let end = offset + bytes.len() as u64;
                self.lost.extend(offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES));
            } else {
                Self::apply(&mut self.disk, &change, &self.lost);
            }
        }
    }

    fn change(&mut self, change: Change) {
        Self::apply(&mut self.cache, &change, &BTreeSet::new());
        self.unsynced.push(change);
    }

    /// Returns what a power cut could leave: each sector of what is not synced is there or not.
    fn cut(&self, random: &mut StdRng) -> Vec<u8> {
        let mut disk = self.disk.clone();
        let share = random.random_range(0.0..=1.0);
        for change in &self.unsynced {
            match change {
                Change::Length(_) if random.random_bool(share) => {
                    Self::apply(&mut disk, change, &self.lost);
                }
                Change::Length(_) => {}
                Change::Bytes(offset, bytes) => {
                    for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                        if random.random_bool(share) {
                            let at = offset + (index * SECTOR_BYTES) as u64;
                            let change = Change::Bytes(at, sector.to_vec());
                            Self::apply(&mut disk, &change, &self.lost);
                        }
                    }
                }
            }
        }
        disk
    }
}

impl Simulated {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Operations so far.
    pub(super) fn operations(&self) -> u64 {
        self.world().operations
    }

    /// The last operations that were not reads, as lines.
    pub(super) fn log(&self) -> String {
        let world = self.world();
        let changes = world.log.iter().filter(|line| !line.contains(" read "));
        let lines: Vec<&str> = changes.map(String::as_str).collect();
        lines[lines.len().saturating_sub(150)..].join("\n")
    }

    pub(super) fn plan(&self, plan: Option<Plan>) {
        self.world().plan = plan;
    }

    pub(super) fn set_full(&self, full: bool) {
        self.world().full = full;
    }

    pub(super) fn put(&self, path: &Path, bytes: Vec<u8>) {
        let mut world = self.world();
        let inode = Inode { cache: bytes.clone(), disk: bytes, ..Inode::default() };
        world.inodes.push(inode);
        let inode = world.inodes.len() - 1;
        world.names.insert(path.to_owned(), inode);
        world.durable_names.insert(path.to_owned(), inode);
    }

    pub(super) fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let world = self.world();
        world.names.get(path).map(|inode| world.inodes[*inode].cache.clone())
    }

    /// The same after an orderly end of the machine: everything is written back that can be.
    pub(super) fn remounted(&self) -> Self {
        let mut world = self.world().clone();
        for inode in &mut world.inodes {
            inode.write_back();
            inode.cache = inode.disk.clone();
            inode.lost.clear();
        }
        world.durable_names = world.names.clone();
        world.unsynced_names.clear();
        world.plan = None;
        Self(Arc::new(Mutex::new(world)))
    }

    /// Returns what a power cut at this moment could leave.
    pub(super) fn cut(&self, random: &mut StdRng) -> Self {
        let mut world = self.world().clone();
        let mut names = world.durable_names.clone();
        // Either changes of names reach the disk in order, or each by itself.
        let ordered = random.random_bool(0.5);
        let kept = random.random_range(0..=world.unsynced_names.len());
        for (index, change) in world.unsynced_names.iter().enumerate() {
            if if ordered { index >= kept } else { random.random_bool(0.5) } {
                continue;
            }
            match change {
                NameChange::Link(path, inode) => drop(names.insert(path.clone(), *inode)),
                NameChange::Unlink(path) => drop(names.remove(path)),
                NameChange::Rename(from, to, inode) => {
                    names.remove(from);
                    names.insert(to.clone(), *inode);
                }
            }
        }
        for inode in &mut world.inodes {
            let disk = inode.cut(random);
            *inode = Inode { cache: disk.clone(), disk, ..Inode::default() };
        }
        world.durable_names = names.clone();
        world.names = names;
        world.unsynced_names.clear();
        world.plan = None;
        Self(Arc::new(Mutex::new(world)))
    }
}

impl World {
    /// Counts an operation; the fault that it suffers, if any.
    fn step(&mut self, what: &str) -> Option<Fault> {
        self.operations += 1;
        self.log.push(format!("{} {what}", self.operations));
        let now = self.operations;
        self.plan.filter(|plan| (plan.first..=plan.last).contains(&now)).map(|plan| plan.fault)
    }

    fn fail(&mut self, what: &str) -> io::Result<()> {
        match self.step(what) {
            None => Ok(()),
            Some(Fault::Panic) => panic!("an injected panic"),
            Some(fault) => Err(fault.error()),
        }
    }
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::NoSpace => io::ErrorKind::StorageFull.into(),
            _ => io::Error::other("an injected failure"),
        }
    }
}

impl Files for Simulated {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
        let mut world = self.world();
        world.fail(&format!("open {path:?}"))?;
        let inode = *world.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let content = &mut world.inodes[inode];
        content.write_back();
        content.cache = content.disk.clone();
        Ok(Arc::new(Handle { world: self.clone(), inode }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
        let mut world = self.world();
        world.fail(&format!("create {path:?}"))?;
        if world.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        world.inodes.push(Inode::default());
        let inode = world.inodes.len() - 1;
        world.names.insert(path.to_owned(), inode);
        world.unsynced_names.push(NameChange::Link(path.to_owned(), inode));
        Ok(Arc::new(Handle { world: self.clone(), inode }))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut world = self.world();
        world.fail(&format!("exists {path:?}"))?;
        Ok(world.names.contains_key(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.fail(&format!("rename {from:?}"))?;
        let inode = world.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        world.names.insert(to.to_owned(), inode);
        world.unsynced_names.push(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.fail(&format!("remove {path:?}"))?;
        if world.names.remove(path).is_some() {
            world.unsynced_names.push(NameChange::Unlink(path.to_owned()));
        }
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.fail(&format!("sync_directory {path:?}"))?;
        world.durable_names = world.names.clone();
        world.unsynced_names.clear();
        Ok(())
    }
}

#[derive(Debug)]
struct Handle {
    world: Simulated,
    inode: usize,
}

impl FileHandle for Handle {
    fn length(&self) -> io::Result<u64> {
        let mut world = self.world.world();
        world.fail(&format!("length {}", self.inode))?;
        Ok(world.inodes[self.inode].cache.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut world = self.world.world();
        world.fail(&format!("read {} {offset}", self.inode))?;
        let cache = &world.inodes[self.inode].cache;
        let range = offset as usize..offset as usize + out.len();
        out.copy_from_slice(cache.get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.world.world();
        let fault = world.step(&format!("write {} {offset} {}", self.inode, bytes.len()));
        let inode = &mut world.inodes[self.inode];
        match fault {
            None => inode.change(Change::Bytes(offset, bytes.to_vec())),
            Some(Fault::Short) => {
                inode.change(Change::Bytes(offset, bytes[..bytes.len() / 2].to_vec()));
            }
            Some(Fault::Panic) => panic!("an injected panic"),
            Some(_) => {}
        }
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut world = self.world.world();
        world.fail(&format!("allocate {} {length}", self.inode))?;
        let full = world.full;
        let inode = &mut world.inodes[self.inode];
        if length > inode.cache.len() as u64 {
            if full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            inode.change(Change::Length(length));
        }
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut world = self.world.world();
        world.fail(&format!("truncate {} {length}", self.inode))?;
        world.inodes[self.inode].change(Change::Length(length));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.world.world();
        let fault = world.step(&format!("sync {}", self.inode));
        let inode = &mut world.inodes[self.inode];
        match fault {
            None => inode.write_back(),
            Some(Fault::Panic) => panic!("an injected panic"),
            Some(_) => inode.lose(),
        }
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }
}
