//! Whether a pod may run on a node, as far as the two alone decide it: what the scheduler, the
//! controllers that place pods themselves, and the node's own admission must agree on.

pub mod node_selector;
pub mod port;
pub mod resources;
pub mod taint;

pub use port::HostPort;
pub use resources::Resources;
