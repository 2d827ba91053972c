//! `coracle dashboard`: a link into the dashboard.

use crate::Failure;
use crate::cli::DirOptions;
use crate::paths::Paths;
use crate::remote::Remote;

/// Prints a link that logs in once, as the user of the node's own kubeconfig.
pub fn run(options: &DirOptions) -> Result<(), Failure> {
    let paths = Paths::new(options);
    if paths.running().is_none() {
        return Err(format!("coracle does not run with {}", paths.data_dir.display()).into());
    }
    let remote = Remote::from_kubeconfig(&options.kubeconfig)?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = tokio.block_on(remote.post("/ui/login-link"))?;
    let path = answer["path"].as_str().ok_or("the node answered without a link")?;
    println!("{}{path}", remote.server.trim_end_matches('/'));
    eprintln!(
        "Good for one login within five minutes. The browser asks about the certificate, which is \
         the node's own;"
    );
    eprintln!("`kubectl proxy` serves the dashboard at http://localhost:8001/ui without a login.");
    Ok(())
}
