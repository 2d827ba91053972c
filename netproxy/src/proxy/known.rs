//! The proxy's memory of one Service.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use watch::Packed;

use super::frontends::slots;
use super::plan::{Frontend, Target};
use super::room::Cost;

#[derive(Debug, Default)]
pub(super) struct Known {
    /// Packed, as are the slices: they are read when one of them changes, and there may be many.
    pub(super) service: Option<Packed<Service>>,
    pub(super) slices: Vec<KnownSlice>,
    /// The most frontends that the Service may have.
    pub(super) frontends: usize,
    pub(super) created: Option<Time>,
    pub(super) cost: Cost,
    /// True if it wants more than one Service may have.
    pub(super) is_cut: bool,
    /// In the order of the frontends. No tree: nearly every Service has one, and a node has room for
    /// eleven.
    pub(super) targets: Box<[(Frontend, Target)]>,
}

#[derive(Debug)]
pub(super) struct KnownSlice {
    pub(super) name: String,
    pub(super) slice: Packed<EndpointSlice>,
    pub(super) endpoints: usize,
}

impl Known {
    /// The most that planning looks at: frontends and map elements, those that it has included.
    pub(super) fn work(&self) -> usize {
        let endpoints = self.slices.iter().map(|slice| slice.endpoints).sum::<usize>();
        let wanted = self.frontends.saturating_mul(1 + slots(endpoints));
        wanted.saturating_add(endpoints).saturating_add(self.cost.elements)
    }

    pub(super) fn target(&self, frontend: &Frontend) -> Option<&Target> {
        let at = self.targets.binary_search_by_key(&frontend, |(known, _)| known).ok()?;
        Some(&self.targets[at].1)
    }
}

/// The frontends of a Service that it had before, with no more endpoints and client networks.
pub(super) fn cut_down(
    targets: Box<[(Frontend, Target)]>,
    before: &[(Frontend, Target)],
) -> Box<[(Frontend, Target)]> {
    let cut = |(frontend, mut target): (Frontend, Target)| {
        let at = before.binary_search_by_key(&frontend, |(known, _)| *known).ok()?;
        let had = &before[at].1;
        target.inside.endpoints.truncate(had.inside.endpoints.len());
        let outside = had.outside.as_ref().map_or(0, |pool| pool.endpoints.len());
        if let Some(pool) = &mut target.outside {
            pool.endpoints.truncate(outside);
        }
        if let Some(ranges) = &mut target.source_ranges {
            ranges.truncate(had.source_ranges.as_ref().map_or(0, Vec::len));
        }
        Some((frontend, target))
    };
    targets.into_iter().filter_map(cut).collect()
}

pub(super) fn unpacked(slices: &[KnownSlice]) -> Vec<EndpointSlice> {
    slices.iter().filter_map(|known| known.slice.unpack()).collect()
}
