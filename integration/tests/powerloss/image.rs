//! A disk as a power cut could leave it: one choice among the changes that were not synced.

use std::fs;
use std::path::{Path, PathBuf};

use coracle_integration::Random;

use crate::model::{File, Inode, Model, Names, Node, PAGE_BYTES, ROOT, Rules, set};
use crate::recording::Position;

const SECTOR_BYTES: usize = 512;

/// The changes that were not synced and are on the disk nevertheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    Nothing,
    Everything,
    /// Those before a position, and a part of the one at it.
    Before(Position),
    /// Those from a position on.
    After(Position),
    /// Each page as it was at some moment since the last sync.
    Pages,
    /// Each sector likewise.
    Sectors,
}

/// A disk without its contents yet.
#[derive(Debug)]
pub struct Plan {
    pub names: Chosen,
    pub contents: Chosen,
}

impl Plan {
    /// A plan for a model that has seen `end` events.
    pub fn draw(model: &Model, end: Position, random: &mut Random) -> Self {
        let first_of = |node: &Node| match node {
            Node::File(file) => file.dirty.values().flatten().map(|v| v.at).min(),
            Node::Directory { .. } => None,
        };
        let dirty = model.nodes.iter().filter_map(first_of).min();
        let names = model.pending.first().map(|change| change.at);
        let mut draw = |first: Option<Position>| {
            let first = first.unwrap_or(end);
            let at = first + random.below((end - first).max(1) as u64) as usize;
            match random.below(7) {
                0 => Chosen::Nothing,
                1 => Chosen::Everything,
                2 | 3 => Chosen::Before(at),
                4 => Chosen::After(at),
                5 => Chosen::Pages,
                _ => Chosen::Sectors,
            }
        };
        let contents = draw(dirty);
        let names = match draw(names) {
            // Metadata is durable in order.
            Chosen::After(at) if model.rules == Rules::Ext4 => Chosen::Before(at),
            Chosen::Pages | Chosen::Sectors if model.rules == Rules::Ext4 => Chosen::Everything,
            other => other,
        };
        Self { names, contents }
    }

    /// Writes the disk into an empty directory.
    pub fn write(&self, model: &Model, target: &Path, random: &mut Random) {
        let mut directories: Vec<Names> = model.nodes.iter().map(disk_names).collect();
        // Both names of a rename change together.
        let mut last = None;
        for change in &model.pending {
            let chosen = match last {
                Some((at, chosen)) if at == change.at => chosen,
                _ => self.has_name(change.at, random),
            };
            last = Some((change.at, chosen));
            if chosen {
                set(&mut directories[change.directory], change);
            }
        }
        let mut open: Vec<(Inode, PathBuf)> = vec![(ROOT, target.to_owned())];
        while let Some((inode, path)) = open.pop() {
            match &model.nodes[inode] {
                Node::Directory { .. } => {
                    fs::create_dir_all(&path).unwrap();
                    let children = directories[inode].iter();
                    open.extend(children.map(|(name, inode)| (*inode, path.join(name))));
                }
                Node::File(file) => {
                    fs::write(path, self.contents(file, model.rules, random)).unwrap();
                }
            }
        }
    }

    fn has_name(&self, at: Position, random: &mut Random) -> bool {
        match self.names {
            Chosen::Nothing => false,
            Chosen::Everything => true,
            Chosen::Before(end) => at < end,
            Chosen::After(start) => at >= start,
            Chosen::Pages | Chosen::Sectors => random.below(2) == 0,
        }
    }

    fn contents(&self, file: &File, rules: Rules, random: &mut Random) -> Vec<u8> {
        // Ordered data: bytes behind `appended_from` are on the disk when the size covers them.
        let (size, appended_from) = match rules {
            Rules::Strict => (self.strict_size(file, random), u64::MAX),
            Rules::Ext4 => self.ext4_size(file, random),
        };
        let mut bytes = file.disk.clone();
        bytes.resize((size as usize).next_multiple_of(PAGE_BYTES), 0);
        for (page, versions) in &file.dirty {
            let place = page * PAGE_BYTES;
            let Some(on_disk) = bytes.get_mut(place..place + PAGE_BYTES) else { continue };
            let appended = place as u64 >= appended_from;
            for sector in 0..PAGE_BYTES / SECTOR_BYTES {
                // A page is chosen by its first sector, unless sectors are.
                let count = versions.len() as u64 + 1;
                let chosen = match self.contents {
                    _ if appended => versions.len(),
                    Chosen::Nothing => 0,
                    Chosen::Everything => versions.len(),
                    Chosen::Before(end) => {
                        let whole = versions.iter().take_while(|v| v.at < end).count();
                        let torn = versions.get(whole).is_some_and(|v| v.at == end);
                        whole + usize::from(torn && random.below(2) == 0)
                    }
                    Chosen::After(start) if versions.iter().any(|v| v.at >= start) => {
                        versions.len()
                    }
                    Chosen::After(_) => 0,
                    Chosen::Pages if sector > 0 => break,
                    Chosen::Pages | Chosen::Sectors => random.below(count) as usize,
                };
                let Some(version) = chosen.checked_sub(1).map(|newest| &versions[newest]) else {
                    continue;
                };
                let range = match self.contents {
                    Chosen::Pages => 0..PAGE_BYTES,
                    _ => sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES,
                };
                on_disk[range.clone()].copy_from_slice(&version.page[range]);
            }
        }
        bytes.truncate(size as usize);
        bytes
    }

    fn strict_size(&self, file: &File, random: &mut Random) -> u64 {
        let newest = |count: usize| match count.checked_sub(1) {
            Some(last) => file.sizes[last].1,
            None => file.disk_size,
        };
        newest(match self.contents {
            Chosen::Nothing => 0,
            Chosen::Everything | Chosen::After(_) => file.sizes.len(),
            Chosen::Before(end) => file.sizes.iter().take_while(|(at, ..)| *at < end).count(),
            Chosen::Pages | Chosen::Sectors => random.below(file.sizes.len() as u64 + 1) as usize,
        })
    }

    /// Sizes that were set are metadata; those that came with writes wait for their pages. Returns
    /// the whole size and the part of it that is metadata alone.
    fn ext4_size(&self, file: &File, random: &mut Random) -> (u64, u64) {
        let chosen = |at: Position| match self.names {
            Chosen::Nothing => false,
            Chosen::Before(end) => at < end,
            _ => true,
        };
        let known = file.sizes.iter().filter(|(at, ..)| chosen(*at));
        let set = known.clone().rfind(|(_, _, set)| *set).map_or(file.disk_size, |size| size.1);
        let longest = known.map(|(_, size, _)| *size).next_back().unwrap_or(set).max(set);
        let size = match self.contents {
            Chosen::Everything => longest,
            // Delayed allocation: the end of the file has no place on the disk yet.
            Chosen::Nothing | Chosen::After(_) => set,
            _ => {
                let pages = (longest - set).div_ceil(PAGE_BYTES as u64);
                (set + random.below(pages + 1) * PAGE_BYTES as u64).min(longest)
            }
        };
        (size, set)
    }
}

fn disk_names(node: &Node) -> Names {
    match node {
        Node::Directory { disk, .. } => disk.clone(),
        Node::File(_) => Names::new(),
    }
}
